"""`headway doctor` in front of what is well, and of each thing that is not: it finds it, and says what to change."""

import datetime as dt
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from msgspec.structs import replace

from infra.web import Web
from services.api.app import create_app as create_api
from services.stream.app import create_app as create_stream
from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.doctors import Seen, look, look_behind
from tests.support.gateways import Gateway, caddy, exchange, nginx
from tests.support.meddler import Meddler, Wrongs
from tests.support.needs import program
from tests.support.ports import own_port
from tests.support.running import HEADWAY, Run, environment, started
from tests.support.streams import health
from tests.support.tls import certificate
from tests.support.web import served

LONG = dt.timedelta(days=90)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    detector = tmp_path_factory.mktemp("none") / "detector.onnx"
    with started(
        tmp_path_factory.mktemp("doctor") / "state", "--no-demo", HEADWAY_DETECTOR=str(detector), HEADWAY_HEARTBEAT="1"
    ) as run:
        yield run


@pytest.fixture(scope="module")
def token(run: Run) -> str:
    return run.headway("token", OWNER).stdout.strip()


@pytest.mark.parametrize("start", [nginx, caddy])
def test_all_is_well_behind_our_gateways(
    run: Run, token: str, tmp_path: Path, start: Callable[..., Iterator[Gateway]]
) -> None:
    address = run.running.address
    with start(address, address, tmp_path / "state", pem=certificate("localhost", left=LONG)) as gateway:  # type: ignore[attr-defined]
        named = gateway.address.replace("127.0.0.1", "localhost")

        seen = look(named, tmp_path, "--token", token, "--wait", "--heartbeat", "1", SSL_CERT_FILE=str(gateway.trust))

    seen.expect_well()
    assert "a stream that is silent is not cut off" in seen.text
    for whose in ("the gateway's", "the database's", "api's", "the stream service's", "the worker's"):
        assert f"✓ passed: {whose} clock and ours agree" in seen.text, "of a token for an hour, too"
    assert token not in seen.text


def test_all_is_well_with_what_runs_here(run: Run) -> None:
    seen = Seen(run.headway("doctor"))

    seen.expect_well()
    assert "left out: /metrics" in seen.text


def test_a_stranger_is_told_what_a_stranger_can_see(run: Run, tmp_path: Path) -> None:
    with served(Meddler(run.running.address, Wrongs(date=formatdate(time.time() - 3600, usegmt=True)))) as address:
        seen = look(address, tmp_path)

    seen.expect(
        ("the gateway's clock", "Date: ", "chrony"),
        ("/metrics is not published", "answered 200, with metrics", "return 404"),
        ("a WebSocket can be opened", "instead of 101", "proxy_set_header Upgrade $http_upgrade;"),
    )
    assert "left out: a rehearsal" in seen.text


def test_an_nginx_as_it_comes_is_told_line_by_line_what_it_lacks(run: Run, token: str, tmp_path: Path) -> None:
    changes = {
        "headway/stream.conf": lambda _: (
            "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering; gzip on; gzip_types text/event-stream;"
        ),
        "headway/site.conf": lambda text: exchange(
            text,
            {
                "    proxy_set_header Connection $headway_connection;\n": "",
                "add_header Strict-Transport-Security $headway_hsts always;": "",
                "client_max_body_size 16m;": "",
                "    client_max_body_size 25664k;\n": "",
                "location ~ ^/(metrics|health/ready)(/|$) {": "location = /nothing {",
                "include headway/forward.conf;\n\n": "\n",
                "gzip_types ": "gzip_types text/event-stream ",
            },
        ).replace("    error_page 502 503 504", "    # "),
        "conf.d/headway.conf": lambda text: text.replace(" http2", ""),
        "headway/answer.conf": lambda text: text.replace("add_header Strict", "# "),
    }
    address = run.running.address
    with nginx(
        address, address, tmp_path / "state", changes=changes, pem=certificate("localhost", left=dt.timedelta(days=3))
    ) as gateway:
        seen = look_behind(gateway, tmp_path, "--token", token)

    seen.expect(
        ("the certificate is valid", "notAfter", "renew"),
        ("browsers are offered HTTP/2", "http/1.1", "nginx: `http2`"),
        ("browsers are told to come by HTTPS", "Strict-Transport-Security", "nginx: `add_header"),
        ("/metrics is not published", "200", "nginx: `location"),
        ("a WebSocket can be opened", "101", "nginx: for /api/ws"),
        ("a file of the largest size", "413", "nginx: `client_max_body_size`"),
        ("a request of the largest size", "413", "nginx: `client_max_body_size`"),
        ("nothing on the way compresses it", "Content-Encoding: gzip", "nginx: `gzip off;`"),
        ("its events come when they are made", "events waited up to", "nginx: `proxy_buffering off;`"),
    )


@pytest.mark.parametrize(
    ("wrongs", "expected"),
    [
        (Wrongs(holds_back=True), ("its events come", "waited up to", "flush_interval -1")),
        (Wrongs(compresses=True), ("nothing on the way", "Content-Encoding: gzip", "excludedContentTypes")),
        (
            Wrongs(without=("cache-control", "x-accel-buffering")),
            ("it has the headers", "no no-transform in Cache-Control; no X-Accel-Buffering", "custom-headers"),
        ),
    ],
)
def test_what_a_proxy_does_to_a_stream_is_seen_in_the_stream(
    run: Run, token: str, tmp_path: Path, wrongs: Wrongs, expected: tuple[str, str, str]
) -> None:
    with served(Meddler(run.running.address, wrongs)) as address:
        seen = look(address, tmp_path, "--token", token)

    _of_streams(seen).expect(expected)


def test_who_takes_out_a_header_for_proxies_and_holds_nothing_back_does_nothing_wrong(
    run: Run, token: str, tmp_path: Path
) -> None:
    """As ingress-nginx does, which does not say its name either."""
    with served(Meddler(run.running.address, Wrongs(without=("x-accel-buffering", "server")))) as address:
        well = look(address, tmp_path, "--token", token)
    held = Wrongs(holds_back=True, without=("x-accel-buffering", "server"))
    with served(Meddler(run.running.address, held)) as address:
        ill = look(address, tmp_path, "--token", token)

    assert not _of_streams(well).failed
    assert "✓ passed: it has the headers that a stream must have" in well.text
    assert "remark: the stream has no X-Accel-Buffering: no" in well.text
    _of_streams(ill).expect(
        ("its events come", "waited up to", "flush_interval -1"),
        ("it has the headers", "no X-Accel-Buffering", "custom-headers"),
    )


def _of_streams(seen: Seen) -> Seen:
    """Without what a Meddler does to everything."""
    others = {"/metrics is not published", "a WebSocket can be opened, by our own pages too"}
    seen.failed = {
        name: found
        for name, found in seen.failed.items()
        if name not in others and not name.startswith("the addresses")
    }
    return seen


def test_a_clock_of_which_nothing_can_be_learned_is_not_said_to_agree(run: Run, token: str, tmp_path: Path) -> None:
    silent = Wrongs(answers=lambda path: 404 if path.endswith("/report-tokens") else None)
    with served(Meddler(run.running.address, silent)) as address:
        seen = look(address, tmp_path, "--token", token)

    assert "left out: api's clock and ours agree (no report token is given out: " in seen.text
    assert "passed: api's clock" not in seen.text
    assert "left out: the stream service's clock" in seen.text


def test_a_stream_that_is_cut_off_before_its_ping_is_seen_by_waiting(run: Run, token: str, tmp_path: Path) -> None:
    with served(Meddler(run.running.address, Wrongs(cuts_after=0.8))) as address:
        seen = look(address, tmp_path, "--token", token, "--wait", "--heartbeat", "1")

    (said,) = [said for name, said in seen.failed.items() if name.startswith("a stream that is silent")]
    assert "of silence" in said
    assert "proxy_read_timeout" in said


def test_a_status_that_ends_an_eventsource_is_told_with_what_would_not(run: Run, tmp_path: Path) -> None:
    away = Wrongs(answers=lambda path: 502 if path.endswith(("/stream", "/changes")) else None)
    with served(Meddler(run.running.address, away)) as address:
        seen = look(address, tmp_path)

    for path in ("/api/batches/{id}/stream", "/api/stream"):
        said = seen.failed[f"the stream service answers at {path}"]
        assert "answered 502" in said
        assert "ends an EventSource for good" in said
        assert "error_page" in said
    assert "left out: it answers at /api/batches/{id}/changes as well (the stream service does not" in seen.text


def test_services_that_are_away_are_told_apart(run: Run, tmp_path: Path) -> None:
    nobody, address = f"http://127.0.0.1:{own_port()}", run.running.address
    pem = certificate("localhost", left=LONG)
    with nginx(address, nobody, tmp_path / "no-stream", pem=pem) as gateway:
        seen = look_behind(gateway, tmp_path)
        assert "bids people come back" in seen.failed["the stream service answers at /api/stream"]
        assert "start the stream service" in seen.failed["the stream service answers at /api/stream"]
        assert "api answers" not in seen.failed
        assert "left out: WebSockets" in seen.text
    with nginx(nobody, address, tmp_path / "no-api", pem=pem) as gateway:
        seen = look_behind(gateway, tmp_path)
        assert "answered 503" in seen.failed.pop("api answers")
        assert not seen.failed, "it is nobody else's fault"
    assert look(nobody, tmp_path).status == 2


def test_a_redis_that_is_away_is_named(run: Run, tmp_path: Path) -> None:
    address, pids = run.running.address, run.running.pids["redis"]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: health(address)["redis"] == "away", "the stream service to notice")
        seen = look(address, tmp_path)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    assert "redis: away" in seen.failed["PostgreSQL and Redis are there"]
    assert "REDIS_URL" in seen.failed["PostgreSQL and Redis are there"]
    wait_for(lambda: health(address)["redis"] == "ok", "Redis to be back")


def test_a_job_that_no_worker_takes_and_an_address_of_others_are_told(settings: Settings, tmp_path: Path) -> None:
    settings = replace(settings, public_url="https://progress.example.org")
    with served(Web(create_api(settings), create_stream(settings))) as address:
        seen = look(address, tmp_path, "--token", issue_token(settings, OWNER), "--patience", "1")

    said = seen.failed["a worker takes the job within 1 s"]
    assert "no_worker" in said
    assert "start workers" in said
    said = seen.failed["the addresses that it gives out are this one's"]
    assert "streamUrl begins with https://progress.example.org" in said
    assert "HEADWAY_PUBLIC_URL" in said


def test_clocks_that_are_wrong_are_each_told(run: Run) -> None:
    address = run.running.address
    command = [program("faketime"), "-f", "+2h", *HEADWAY, "doctor", address]
    done = subprocess.run(command, env=environment(run.home), capture_output=True, text=True, timeout=60, check=False)

    seen = Seen(done)
    for whose in ("the gateway's", "the database's"):
        said = seen.failed[f"{whose} clock and ours agree"]
        behind = re.search(r"(\d+) s behind this machine", said)
        # a Date says whole seconds, and the question takes its time
        assert behind is not None, said
        assert int(behind[1]) == pytest.approx(7200, abs=30)
        assert "chrony" in said


def test_a_certificate_of_another_name_gets_no_token(run: Run, token: str, tmp_path: Path) -> None:
    address = run.running.address
    with nginx(address, address, tmp_path / "state", pem=certificate(left=LONG)) as gateway:
        named = gateway.address.replace("127.0.0.1", "localhost")
        seen = look(named, tmp_path, "--token", token, SSL_CERT_FILE=str(gateway.trust))
        unknown = look(gateway.address, tmp_path, "--token", token)

    seen.expect(("the certificate is valid", "ostname mismatch", "install one that names localhost"))
    unknown.expect(("the certificate is valid", "self-signed", "SSL_CERT_FILE"))
    for said in (seen, unknown):
        assert "left out: a rehearsal" in said.text


def test_a_port_that_no_address_has_is_told_in_a_sentence(tmp_path: Path) -> None:
    for more in ((), ("--token", "x")):
        seen = look("http://127.0.0.1:99999", tmp_path, *more)

        assert seen.status == 2
        assert "headway: http://127.0.0.1:99999 is not an address: Port out of range" in seen.text
        assert "Traceback" not in seen.text


@pytest.mark.parametrize("start", [nginx, caddy])
def test_who_asks_without_tls_is_sent_where_the_gateway_sends_them(
    run: Run, token: str, tmp_path: Path, start: Callable[..., Iterator[Gateway]]
) -> None:
    address = run.running.address
    with start(address, address, tmp_path / "state", pem=certificate("localhost", left=LONG)) as gateway:  # type: ignore[attr-defined]
        seen = look(gateway.plain, tmp_path, "--token", token)

    assert seen.status == 2
    first, second = seen.text.splitlines()
    assert first == f"Doctor of {gateway.plain}"
    assert re.fullmatch(rf"headway: {gateway.plain} redirects to https://127\.0\.0\.1(:\d+)?: ask that", second)


def test_of_what_is_not_headway_nothing_more_is_asked(run: Run, token: str, tmp_path: Path) -> None:
    with served(Meddler(run.running.address, Wrongs(answers=lambda _path: 200))) as address:
        seen = look(address, tmp_path, "--token", token)

    seen.expect(("api answers", "/api/kinds is answered 200", "everything else to api"))
    assert "left out: everything else (what answers there is not Headway)" in seen.text
    for other in ("may pass", "/metrics", "WebSocket", "rehearsal"):
        assert other not in seen.text


def test_a_database_that_is_away_is_told_with_where_to_look(settings: Settings, tmp_path: Path) -> None:
    settings = replace(settings, database_url=f"postgresql://nobody@127.0.0.1:{own_port()}/none")
    with served(Web(create_api(settings), create_stream(settings))) as address:
        seen = look(address, tmp_path, "--token", issue_token(settings, OWNER), "--wait", "--heartbeat", "1")

    said = seen.failed["a rehearsal is accepted"]
    assert seen.status == 1, seen.text
    assert "seen:   POST /api/batches is answered 503: Not available" in said
    assert "GET /health/ready" in said.partition("change:")[2]
    assert "docs/runbook.md" in said.partition("change:")[2]


def test_a_token_that_is_not_taken_is_told(run: Run, tmp_path: Path) -> None:
    said = look(run.running.address, tmp_path, "--token", "x").failed["a rehearsal is accepted"]

    assert "answered 401" in said
    assert "HEADWAY_SECRET" in said


def test_who_reads_only_the_beginning_is_told_nothing_else(run: Run, token: str) -> None:
    command = [*HEADWAY, "doctor", run.running.address, "--token", token]
    with subprocess.Popen(
        command, env=environment(run.home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as doctor:
        assert doctor.stdout is not None
        assert doctor.stderr is not None
        assert doctor.stdout.readline().startswith("Doctor of")
        doctor.stdout.close()
        said = doctor.stderr.read()

    assert doctor.returncode == 1
    assert said == ""
