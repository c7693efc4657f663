"""The stream service as a process: how it leaves, and what `make run` makes of it and api."""

import signal
import socket
import subprocess
import sys
import time
from typing import Any

import httpx
from msgspec.structs import replace

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.metrics import Numbers
from tests.support.ports import own_port
from tests.support.processes import environment
from tests.support.sse import Stream
from tests.support.streams import health, status, stream_process
from tests.support.web import client, decoded, submit
from tests.support.writer import Writer


def test_it_leaves_politely(settings: Settings, writer: Writer, token: str) -> None:
    grace = 10.0
    with stream_process(replace(settings, drain_grace=grace)) as (address, process):
        with Stream(address, writer.batch_id, token) as stream:
            stream.delta()
            asked = time.monotonic()
            process.send_signal(signal.SIGTERM)
            (error,) = stream.rest()
        with Stream(address, writer.batch_id, token) as late:
            (refused,) = late.rest()
        other = httpx.get(
            f"{address}/api/batches/{writer.batch_id}/stream",
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            trust_env=False,
        )
        readiness = status(address, "/health/ready")
        state = health(address)["status"]
        code = process.wait(grace * 2)
        took = time.monotonic() - asked

    assert (error.name, error.data["code"], error.data["retryable"]) == ("error", "draining", True)
    assert stream.parser.retry[0] == 2000
    assert stream.parser.retry[1] >= 2000
    assert late.status == 200
    assert refused.data["code"] == "draining"
    assert late.parser.retry[0] >= 2000
    assert other.status_code == 503
    assert int(other.headers["retry-after"]) > 0
    assert (readiness, state) == (503, "draining")
    assert code == 0
    assert took < grace


def test_a_reader_that_does_not_read_does_not_keep_it(settings: Settings, writer: Writer, token: str) -> None:
    with (
        stream_process(replace(settings, window=0)) as (address, process),
        Stream(address, writer.batch_id, token, receive_buffer=4096) as stream,
    ):
        stream.delta()
        writer.start(0)
        for percent in range(20):
            writer.progress(0, percent, lines=20, text="x" * 2000)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_second_signal_is_not_waited_for(settings: Settings, writer: Writer, token: str) -> None:
    with (
        stream_process(replace(settings, drain_grace=60)) as (address, process),
        Stream(address, writer.batch_id, token) as stream,
    ):
        stream.delta()
        process.send_signal(signal.SIGTERM)
        stream.rest()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_taken_port_is_one_sentence(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "services.stream"],
            env=environment(replace(settings, port=port)),
            capture_output=True,
            timeout=30,
            check=False,
        )

    assert done.returncode == 2
    assert done.stderr.decode() == f"Cannot listen on 127.0.0.1 port {port}: Address already in use.\n"


def test_neither_tokens_nor_tickets_reach_the_log(settings: Settings, writer: Writer) -> None:
    secret = issue_token(settings, OWNER)
    process = subprocess.Popen(
        [sys.executable, "-m", "services.stream"],
        env=environment(replace(settings, port=(port := own_port()))),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: status(address, "/health/live") == 200, "the stream service to answer")
        queries: list[dict[str, Any]] = [{}, {"ticket": secret}, {"nonsense": secret}]
        for query in queries:
            with Stream(address, writer.batch_id, secret if not query else None, **query) as stream:
                assert stream.status in {200, 401, 422}
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=20)

    assert secret not in output.decode()
    assert str(writer.batch_id) not in output.decode()


def test_both_services_at_one_address(settings: Settings) -> None:
    with stream_process(settings, "infra.web") as (address, process), client(address, settings) as anna:
        batch = submit(anna)
        ticket = batch["streamUrl"].partition("ticket=")[2]
        with Stream(address, batch["batchId"], None, ticket=ticket) as stream:
            stream.delta()
            told = dict(stream.record.batch)
            read = decoded(anna.get(f"/api/batches/{batch['batchId']}"))
            anna.post(f"/api/batches/{batch['batchId']}/cancel")
            events = stream.rest()
        ready = health(address)
        numbers = Numbers(address).read()
        process.send_signal(signal.SIGINT)
        code = process.wait(10)

    assert told == {name: read[name] for name in told}  # api says where the stream is, too
    assert events[-1].name == "complete"
    assert events[-1].data["status"] == "CANCELLED"
    assert ready == {"status": "ready", "postgresql": "ok", "redis": "ok", "schema": "ok"}
    assert numbers["connections_opened_total{events}"] == 1
    assert code == 0
