"""From a client's request through api, worker and stream as one trace, seen by a collector that real processes tell."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import redis
import sqlalchemy as sa
from msgspec import Struct, structs

from services.api.app import create_app
from shared.auth import issue_token
from shared.channels import batch_channel
from shared.settings import Settings
from tests.support.batches import OWNER, batch_row, wait_for
from tests.support.collector import Seen, collector
from tests.support.plugged import plugged
from tests.support.ports import own_port
from tests.support.processes import environment, service
from tests.support.sse import Stream
from tests.support.streams import status
from tests.support.web import client, decoded, rehearsal, served

pytestmark = pytest.mark.timeout(240)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ANOTHER = "0af7651916cd43dd8448eb211c80319c"
SPAN = "00f067aa0ba902b7"
VIEWERS = 5
PATIENCE = 60

SERVICES = ("services.api", "services.stream", "services.worker")


def parent(trace: str = TRACE, flags: str = "01") -> dict[str, str]:
    """What a client's request carries."""
    return {"traceparent": f"00-{trace}-{SPAN}-{flags}", "tracestate": "shop=1,other=2"}


class Installed(Struct):
    settings: Settings
    api: httpx.Client
    stream: str
    processes: list[subprocess.Popen[bytes]]


@contextmanager
def installed(
    settings: Settings, directory: Path, more: Mapping[str, str] | Mapping[str, Mapping[str, str]]
) -> Iterator[Installed]:
    """api, stream and worker as processes, with this in their environments besides; or for each by its module."""
    given: Any = more if "services.api" in more else dict.fromkeys(SERVICES, more)
    ports, addresses, processes = [own_port(), own_port()], [], []
    ready = directory / "ready"
    with ExitStack() as stack:
        for module, port in zip(("services.api", "services.stream"), ports, strict=True):
            its = structs.replace(settings, port=port)
            processes.append(stack.enter_context(service(module, settings=its, more=given[module])))
            addresses.append(f"http://127.0.0.1:{port}")
        arguments = ("--queue", "default", "--ready-file", str(ready))
        worker = service("services.worker", *arguments, settings=settings, more=given["services.worker"])
        processes.append(stack.enter_context(worker))
        wait_for(
            lambda: ready.exists() and all(status(at, "/health/ready") == 200 for at in addresses), "all", PATIENCE
        )
        api = stack.enter_context(client(addresses[0], settings))
        yield Installed(settings, api, addresses[1], processes)


def create(api: httpx.Client, body: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    reply = api.post("/api/batches", json=body, headers=dict(headers))
    assert reply.status_code == 201, reply.text
    return decoded(reply)


HANDLER = """
from opentelemetry import trace
from shared.kit import run
from shared.updates import Log, Metadata

def tells(params, job):
    with trace.get_tracer("a library").start_as_current_span("inner"):
        pass
    yield Metadata({"traceparent": job.traceparent, "tracestate": job.tracestate})
    yield from run(["env"], each=lambda line: Log(line) if line.startswith("TRACE") else None)
"""

TELLS: dict[str, Any] = {"kind": "tells", "title": "where it is", "jobs": [{"name": "one", "params": {}}]}


def told(whole: Installed, batch: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What the handler found, and the command that it ran."""
    with Stream(whole.stream, batch["batchId"], issue_token(whole.settings, OWNER)) as viewer:
        viewer.until("complete", PATIENCE)
    (job,) = decoded(whole.api.get(f"/api/batches/{batch['batchId']}/jobs"))["items"]
    lines = decoded(whole.api.get(f"/api/batches/{batch['batchId']}/logs"))["items"]
    assert job["status"] == "COMPLETED"
    return job["metadata"], sorted(line["text"] for line in lines)


FAILING = {"steps": 4, "stepMs": 150, "failAtStep": 2}


def test_a_batch_is_one_trace_from_the_clients_request_to_the_streams_delivery(
    settings: Settings, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        spans = stack.enter_context(collector())
        more = plugged(tmp_path / "plugins", "tells", "tells", HANDLER) | spans.environment
        whole = stack.enter_context(installed(settings, tmp_path, more))
        token = issue_token(settings, OWNER)
        batch = create(whole.api, rehearsal(0, open=True), parent())
        viewers = [stack.enter_context(Stream(whole.stream, batch["batchId"], token)) for _ in range(VIEWERS)]
        for viewer in viewers:
            viewer.until("progress")
        jobs = [*rehearsal(2, {"steps": 4, "stepMs": 150})["jobs"], {"name": "fails", "params": FAILING}]
        address = f"/api/batches/{batch['batchId']}"
        whole.api.post(f"{address}/jobs", json={"jobs": jobs}, headers=parent()).raise_for_status()
        whole.api.post(f"{address}/close", headers=parent()).raise_for_status()
        for viewer in viewers:
            viewer.until("complete", PATIENCE)
        wait_for(lambda: len(spans.named("job rehearsal")) == 3, "the spans of all attempts", PATIENCE)
        wait_for(lambda: spans.named("deliver"), "the span of a delivery", PATIENCE)
        # what is done later, for another reason, belongs to another trace
        reply = whole.api.post(f"{address}/retry-failed", headers=parent(ANOTHER))
        assert reply.status_code == 202
        wait_for(lambda: len(spans.named("job rehearsal")) == 4, "the span of another attempt", PATIENCE)
        whole.api.get(address, headers=parent(ANOTHER, "00"))
        found, lines = told(whole, create(whole.api, TELLS, parent(ANOTHER)))
        for process in whole.processes:
            process.terminate()
        assert [process.wait(30) for process in whole.processes] == [0, 0, 0]
        seen = spans.spans

    creation = next(one for one in of(seen, "POST /api/batches") if one.trace == TRACE)
    assert (creation.service, creation.kind, creation.trace, creation.parent) == ("headway-api", "SERVER", TRACE, SPAN)
    assert creation.attributes["http.route"] == "/api/batches"
    assert creation.attributes["http.response.status_code"] == 201
    attempts = of(seen, "job rehearsal")
    assert {(one.service, one.kind, one.trace, one.parent) for one in attempts} == {
        ("headway-worker", "CONSUMER", TRACE, creation.id)
    }
    assert sorted(one.attributes["headway.outcome"] for one in attempts) == [
        "completed",
        "completed",
        "failed",
        "failed",
    ]
    assert {one.attributes["headway.batch_id"] for one in attempts} == {batch["batchId"]}
    assert {one.attributes["headway.queue"] for one in attempts} == {"default"}
    failed = [one for one in attempts if one.failed]
    assert sorted(one.attributes["headway.attempt"] for one in failed) == [1, 2]
    assert {one.failed for one in failed} == {"rehearsed"}
    assert all(one.events[0]["exception.type"] == "rehearsed" for one in failed)
    traced = [one for one in seen if one.trace == TRACE]
    assert_deliveries(traced, {one.id for one in traced if one.kind in {"SERVER", "CONSUMER"}})
    (retry,) = of(seen, "POST /api/batches/{batch_id}/retry-failed")
    assert (retry.trace, retry.parent) == (ANOTHER, SPAN)
    assert of(seen, "GET /api/batches/{batch_id}") == [], "whoever began that trace does not want it to be recorded"
    assert token not in repr(seen)
    assert batch["streamUrl"].partition("ticket=")[2] not in repr(seen)

    (attempt,), (inner,) = of(seen, "job tells"), of(seen, "inner")
    assert (inner.trace, inner.parent) == (ANOTHER, attempt.id), "what a library begins in a handler is a part of it"
    expected = {"traceparent": f"00-{ANOTHER}-{attempt.id}-01", "tracestate": parent()["tracestate"]}
    assert found == expected
    assert lines == [f"TRACEPARENT={expected['traceparent']}", f"TRACESTATE={expected['tracestate']}"]


def of(spans: list[Seen], name: str) -> list[Seen]:
    return [span for span in spans if span.name == name]


def assert_deliveries(told: list[Seen], causes: set[str]) -> None:
    """One for a round, whatever the number of viewers; each comes from a request or an attempt."""
    deliveries = of(told, "deliver")
    assert {one.service for one in deliveries} == {"headway-stream"}
    assert {one.trace for one in deliveries} == {TRACE}
    assert {one.parent for one in deliveries} <= causes
    assert {span for one in deliveries for _, span in one.links} <= causes
    versions = [one.attributes["headway.version"] for one in deliveries]
    assert len(versions) == len(set(versions)), "one for each version, not for each viewer"
    assert max(one.attributes["headway.readers"] for one in deliveries) == VIEWERS
    whole = [one for one in deliveries if not one.attributes["headway.readers_woken"]]
    assert any(one.attributes["headway.bytes"] > 100 * VIEWERS for one in whole)
    # what came by a look at the database and not by a worker's frame has none
    lags = [one.attributes["headway.lag_ms"] for one in deliveries if "headway.lag_ms" in one.attributes]
    assert lags
    assert all(0 <= lag < 60_000 for lag in lags)


@contextmanager
def nobody() -> Iterator[str]:
    """A collector that takes connections and answers none of them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield "http://{}:{}".format(*listener.getsockname())


def test_a_collector_that_is_away_or_does_not_answer_keeps_nobody_waiting(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with nobody() as silent:
        away = f"http://127.0.0.1:{own_port()}"
        endpoint = {"services.api": silent, "services.stream": away, "services.worker": silent}
        more = {
            module: {"OTEL_EXPORTER_OTLP_ENDPOINT": to, "OTEL_BSP_SCHEDULE_DELAY": "50"}
            for module, to in endpoint.items()
        }
        with installed(settings, tmp_path, more) as whole:
            batch = create(whole.api, rehearsal(20, {"steps": 2, "stepMs": 1}), parent())
            with Stream(whole.stream, batch["batchId"], issue_token(settings, OWNER)) as viewer:
                viewer.until("complete", PATIENCE)
            said = ""

            def complained() -> bool:
                nonlocal said
                said += capfd.readouterr().err
                return said.count("traces cannot be sent") >= 3

            wait_for(complained, "all logs to say that traces cannot be sent", PATIENCE)
            for process in whole.processes:
                process.terminate()
            # a collector that does not answer would hold an exit up for half a minute, if we let it
            assert [process.wait(25) for process in whole.processes] == [0, 0, 0]
    said += capfd.readouterr().err
    assert said.count("traces cannot be sent") == 3, "once a minute for each process"
    assert "Traceback" not in said


def test_without_a_collector_the_callers_context_still_reaches_handlers_their_commands_and_frames(
    settings: Settings, engine: sa.Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = plugged(tmp_path / "plugins", "tells", "tells", HANDLER)
    with redis.Redis.from_url(settings.redis_url) as hints, installed(settings, tmp_path, plugin) as whole:
        listening = hints.pubsub(ignore_subscribe_messages=True)
        any_batch = batch_channel(settings.namespace, UUID(int=0)).replace(str(UUID(int=0)), "*")
        listening.psubscribe(any_batch)
        listening.get_message(timeout=5)
        batch = create(whole.api, TELLS, parent())
        found, lines = told(whole, batch)
        frames = [
            msgspec.json.decode(message["data"]) for message in iter(lambda: listening.get_message(timeout=1), None)
        ]
        plain = create(whole.api, TELLS, {"traceparent": "00-nonsense-01"})
        assert told(whole, plain) == ({"traceparent": None, "tracestate": ""}, [])
        listening.close()
    expected = parent()
    row = batch_row(engine, UUID(batch["batchId"]))
    assert (row.traceparent, row.tracestate) == (expected["traceparent"], expected["tracestate"])
    assert found == expected
    assert lines == [f"TRACEPARENT={expected['traceparent']}", f"TRACESTATE={expected['tracestate']}"]
    assert len(frames) >= 3
    assert {frame["traceparent"] for frame in frames} == {expected["traceparent"]}
    said = capfd.readouterr().err
    assert re.search(rf"request .*route=/api/batches .*trace_id={TRACE}", said), said


def test_a_report_from_elsewhere_is_told_of_as_a_part_of_the_reporters_trace(settings: Settings) -> None:
    channel = batch_channel(settings.namespace, UUID(int=0)).replace(str(UUID(int=0)), "*")
    with (
        redis.Redis.from_url(settings.redis_url) as hints,
        served(create_app(settings)) as address,
        client(address, settings) as api,
        hints.pubsub(ignore_subscribe_messages=True) as listening,
    ):
        body = {"kind": "external", "title": "elsewhere", "jobs": [{"name": "one", "params": {}}]}
        batch = create(api, body, {})
        listening.psubscribe(channel)
        listening.get_message(timeout=5)
        (job,) = decoded(api.get(f"/api/batches/{batch['batchId']}/jobs"))["items"]
        reports = {"run": str(uuid4()), "reports": [{"type": "start", "sequence": 1}]}
        api.post(f"/api/jobs/{job['id']}/report", json=reports, headers=parent()).raise_for_status()
        frame = wait_for(lambda: listening.get_message(timeout=1), "the frame")
    assert msgspec.json.decode(frame["data"])["traceparent"] == parent()["traceparent"]


MISSING = "OpenTelemetry is not installed: the dependency group `tracing` has it"
WITHOUT = """
import runpy, sys
sys.modules["opentelemetry"] = None  # as if it were not there
module, *arguments = sys.argv[1:]
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__")
"""


def started(settings: Settings, module: str, **more: str) -> "subprocess.CompletedProcess[str]":
    arguments = ["--queue", "default"] if module == "services.worker" else []
    command = [sys.executable, "-c", WITHOUT, module, *arguments]
    its = environment(structs.replace(settings, port=own_port())) | more
    return subprocess.run(command, env=its, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("module", [*SERVICES, "infra.workers"])
def test_a_collector_without_the_packages_stops_the_start_with_a_sentence(settings: Settings, module: str) -> None:
    done = started(settings, module, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318")
    assert (done.returncode, done.stderr) == (
        2,
        f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but {MISSING}\n",
    )


def test_a_protocol_that_is_not_spoken_stops_the_start_with_a_sentence(settings: Settings) -> None:
    address = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4317"}
    done = started(settings, "services.api", OTEL_EXPORTER_OTLP_PROTOCOL="grpc", **address)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf")


@pytest.mark.parametrize(
    "more",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}],
    ids=["no collector", "disabled"],
)
def test_without_tracing_the_packages_are_not_even_looked_for(
    settings: Settings, tmp_path: Path, more: dict[str, str]
) -> None:
    ready = tmp_path / "ready"
    arguments = ["-c", WITHOUT, "services.worker", "--queue", "default", "--ready-file", str(ready)]
    with subprocess.Popen([sys.executable, *arguments], env=environment(settings) | more) as process:
        wait_for(lambda: ready.exists() or process.poll() is not None, "the worker to be ready", PATIENCE)
        process.terminate()
        assert process.wait(30) == 0
    assert ready.exists()
