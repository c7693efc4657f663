"""What of nginx's files there is nothing like in the others, and what in them has to agree with the code."""

import re
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml

from services.api.app import create_app as create_api
from services.stream.app import create_app as create_stream
from services.stream.carrier import GREETING
from shared.errors import Problem, all_errors, problem_type
from shared.settings import Settings
from shared.web.protocol import LONGEST_ADDRESS
from tests.support.batches import wait_for
from tests.support.gateways import FILES, Gateway, exchange, nginx
from tests.support.memory import held
from tests.support.names import named
from tests.support.ports import own_port
from tests.support.sse import Stream
from tests.support.tls import client_context, connect
from tests.support.web import assert_problem, live, served
from tests.support.writer import Writer

NGINX = FILES / "nginx"
SITE = (NGINX / "headway" / "site.conf").read_text()
EVENTS = {"Accept": "text/event-stream"}


def asking(gateway: Gateway) -> httpx.Client:
    return httpx.Client(base_url=gateway.address, verify=client_context(), timeout=30, trust_env=False)


def test_it_starts_and_stops_without_a_complaint(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{own_port()}"
    with nginx(nobody, nobody, tmp_path / "state") as gateway, asking(gateway) as client:
        client.get("/")
        client.get("/api/stream")

    assert not re.search(r"\[(warn|error|crit|alert|emerg)\]", gateway.said), gateway.said
    assert gateway.process.returncode == 0


def test_who_asks_too_often_is_told_when_to_come_again(settings: Settings, tmp_path: Path) -> None:
    def few(text: str) -> str:
        return re.sub(r"burst=\d+", "burst=2", text)

    def slow(text: str) -> str:
        return re.sub(r"rate=\d+r/s", "rate=1r/m", text)

    changes = {"headway/site.conf": few, "headway/http.conf": slow}
    with (
        served(create_api(settings)) as api,
        nginx(api, api, tmp_path / "state", changes=changes) as gateway,
        asking(gateway) as client,
    ):
        replies = [client.post("/api/batches") for _ in range(4)]
        assert [reply.status_code for reply in replies] == [401, 401, 401, 429]
        assert_problem(replies[-1], 429, "too_many_requests")
        assert int(replies[-1].headers["retry-after"]) > 0
        streams = [client.get("/api/stream", headers=EVENTS) for _ in range(4)]
        assert [reply.status_code for reply in streams] == [401, 401, 401, 200]
        assert streams[-1].text.startswith("retry: ")
        assert '"code":"too_many_connections"' in streams[-1].text
        assert_problem(client.get("/api/stream", headers={"Accept": "application/json"}), 429, "too_many_requests")


@pytest.mark.parametrize("limit", ["headway_open 2000;", "headway_all 12000;"])
def test_streams_of_one_address_and_of_all_are_limited(
    settings: Settings, writer: Writer, token: str, tmp_path: Path, limit: str
) -> None:
    changes = {"headway/stream.conf": lambda text: exchange(text, {limit: f"{limit.split(maxsplit=1)[0]} 2;"})}
    with (
        served(create_stream(settings)) as stream,
        nginx(stream, stream, tmp_path / "state", changes=changes) as gateway,
        Stream(gateway.address, writer.batch_id, token) as first,
        Stream(gateway.address, writer.batch_id, token) as second,
    ):
        first.delta()
        second.delta()
        with Stream(gateway.address, writer.batch_id, token) as third:
            assert third.next().data["code"] == "too_many_connections"
        with asking(gateway) as client:
            own = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
            for what in ("stream", "changes"):
                refused = client.get(f"/api/batches/{writer.batch_id}/{what}", headers=own)
                assert_problem(refused, 429, "too_many_requests")
                assert refused.headers["retry-after"] == "5"


def test_who_finds_no_connection_left_is_cut_off_or_told_to_come_back(tmp_path: Path) -> None:
    """A stream takes two, so that with one more in all the last who comes finds one of them."""
    endings = [_ending(connections, tmp_path / str(connections)) for connections in (30, 31)]
    assert any(endings), "nobody was told"
    for ending in filter(None, endings):
        assert ending.startswith(b"HTTP/1.1 200 ")
        assert b'"code":"overloaded"' in ending


def _ending(connections: int, folder: Path) -> bytes:
    """What the first gets who gets no stream, of one process with so many connections."""

    def few(text: str) -> str:
        places = {"worker_processes 2;": "worker_processes 1;"}
        return exchange(text, places | {"worker_connections 16384;": f"worker_connections {connections};"})

    with (
        served(_snapshot_and_silence) as stream,
        nginx(stream, stream, folder, changes={"nginx.conf": few}) as gateway,
        ExitStack() as open_streams,
    ):
        for number in range(connections):
            answer = _begin(gateway, open_streams)
            if _SNAPSHOT not in answer:
                assert number >= 10
                return answer
    raise AssertionError("there is no end of them")


def test_an_open_stream_takes_little(tmp_path: Path) -> None:
    """What mem_limit and headway_all rest on: docs/operations.md has it under sizing, with the kernel's share."""
    many = 300
    with (
        served(_snapshot_and_silence) as stream,
        nginx(stream, stream, tmp_path / "state") as gateway,
        ExitStack() as open_streams,
    ):
        for _ in range(100):
            assert _SNAPSHOT in _begin(gateway, open_streams)
        before = _held(gateway)
        for _ in range(many):
            assert _SNAPSHOT in _begin(gateway, open_streams)

        assert (_held(gateway) - before) / many < 45 * 1024


def _held(gateway: Gateway) -> int:
    master = gateway.process.pid
    workers = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    assert len(workers) == 2
    return sum(held(int(worker)) for worker in workers)


def _begin(gateway: Gateway, open_streams: ExitStack) -> bytes:
    """What the first 16 KiB of an answer are, or all of it; nothing if there is none. The connection stays open."""
    answer = b""
    with suppress(OSError):
        connection = open_streams.enter_context(connect(gateway.address))
        connection.sendall(_LIKE_A_BROWSER)
        while len(answer) < 16 * 1024 and not answer.endswith(b"\n\n"):
            if not (received := connection.recv(65536)):
                break
            answer += received
    return answer


_SNAPSHOT = b"data: xxxxxxxxxx"
_LIKE_A_BROWSER = (
    f"GET /api/stream?ticket={'t' * 400} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
    f"User-Agent: {'u' * 120}\r\nReferer: https://localhost/{'r' * 60}\r\nX: {'x' * 400}\r\n\r\n"
).encode()


async def _snapshot_and_silence(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"data: " + b"x" * 20_000, "more_body": True})
    await receive()


def test_what_it_takes_at_most_is_what_compose_gives_it() -> None:
    """Where all come that it lets in it refuses others, instead of being killed or of having no connection left."""
    stream = (NGINX / "headway" / "stream.conf").read_text()
    main = (NGINX / "nginx.conf").read_text()
    about = yaml.safe_load((FILES.parents[1] / "compose.yaml").read_text())["services"]["gateway"]
    streams, workers = _number(r"limit_conn headway_all (\d+);", stream), _number(r"worker_processes (\d+);", main)
    connections = _number(r"worker_connections (\d+);", main)
    assert about["mem_limit"] == "1g"
    # over HTTP/2, the kernel's share included; and 35 KB for each connection beside
    beside = workers * connections - 2 * streams
    assert streams * 53 * 1024 + beside * 35_000 < 2**30
    # they are shared out evenly, and a fifth of the connections is left for others
    assert re.search(r"listen 8443 .*\breuseport;", (NGINX / "conf.d" / "headway.conf").read_text())
    assert 2 * streams / workers <= 0.8 * connections
    assert connections <= about["ulimits"]["nofile"]["soft"]
    assert streams > _number(r"limit_conn headway_open (\d+);", stream)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, pattern
    return int(found[1])


def test_its_own_check_of_its_health_is_in_the_log_only_if_it_goes_wrong(settings: Settings, tmp_path: Path) -> None:
    with served(create_api(settings)) as api, nginx(api, api, tmp_path / "well") as gateway, asking(gateway) as client:
        assert client.get("/health/live").status_code == 200
        client.get("/health/live?and")
        client.get("/health/ready")
        client.get("/the-last")
        wait_for(lambda: "/the-last" in gateway.access, "the last request to be in the log")
        assert [msgspec.json.decode(line)["path"] for line in gateway.access.splitlines()] == [
            "/health/ready",
            "/the-last",
        ]
    nobody = f"http://127.0.0.1:{own_port()}"
    with nginx(nobody, nobody, tmp_path / "wrong") as gateway, asking(gateway) as client:
        assert client.get("/health/live").status_code == 503
        wait_for(lambda: "/health/live" in gateway.access, "the failure to be in the log")
    for file in (NGINX / "host.conf", NGINX / "conf.d" / "headway.conf"):
        logs = re.findall(r"access_log (.*);", file.read_text())
        assert len(logs) == 2
        assert all(log.endswith(" headway if=$headway_logged") for log in logs)


def test_a_name_is_asked_for_again_and_a_replica_that_is_gone_is_passed_over(
    settings: Settings, writer: Writer, token: str, tmp_path: Path
) -> None:
    """As in compose: one name, several addresses, which change while nginx runs."""
    both, gone, there = ["127.0.0.2", "127.0.0.1"], ["127.0.0.2"], ["127.0.0.1"]
    with served(create_stream(settings)) as stream, named(**{"stream.test": both}) as names:
        address = f"http://stream.test:{httpx.URL(stream).port}"
        with nginx("http://api.test:1", address, tmp_path / "state", resolver=names.port) as gateway:
            for _ in range(8):
                assert _answers(gateway, writer, token)
            for addresses in (gone, there, [], both, None):
                names.addresses = {} if addresses is None else {"stream.test": addresses}
                awaited = addresses in (there, both)
                wait_for(lambda: _answers(gateway, writer, token) == awaited, f"the name to be {addresses}")  # noqa: B023
            with asking(gateway) as client:
                assert_problem(client.get("/api/batches"), 503, "unavailable")


def _answers(gateway: Gateway, writer: Writer, token: str) -> bool:
    with Stream(gateway.address, writer.batch_id, token) as stream:
        return stream.next().name != "error"


def test_what_is_too_long_is_refused_in_the_same_form(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{own_port()}"
    with nginx(nobody, nobody, tmp_path / "state") as gateway, asking(gateway) as client:
        assert_problem(client.get(f"/{'x' * 30_000}"), 414, "address_too_long")
        assert_problem(client.get("/", headers={"X": "x" * 30_000}), 431, "headers_too_large")
        assert_problem(client.get("/.headway/problem/503"), 404, "not_found")
        # what the services take, an address of their longest, passes to them
        assert_problem(client.get(f"/{'x' * (LONGEST_ADDRESS - 1)}"), 503, "unavailable")


def test_its_own_answers_are_those_of_the_services() -> None:
    errors = {problem_type(error): error for error in all_errors()}
    answers = (NGINX / "headway" / "answers.conf").read_text()
    problems = re.findall(r"return (\d+) '(\{.*\})';", answers)
    assert len(problems) > 5
    for status, body in problems:
        said = msgspec.json.decode(body, type=Problem)
        error = errors[said.type]
        assert (said.title, said.status, int(status)) == (error.title, error.status, error.status)
    caddy = (FILES / "caddy" / "Caddyfile").read_text()
    for body, status in re.findall(r"respond `(\{.*\})` (\d+)", caddy):
        said = msgspec.json.decode(body, type=Problem)
        error = errors[said.type]
        assert (said.title, said.status, int(status)) == (error.title, error.status, error.status)


def test_its_limits_fit_the_settings() -> None:
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    uploads = SITE[SITE.index("location = /api/uploads") :]
    assert _bytes(SITE) == defaults["max_request"]
    assert _bytes(uploads) == defaults["max_upload"] + 64 * 1024  # what services/api/uploads.py allows around the file
    stream = (NGINX / "headway" / "stream.conf").read_text()
    minutes = re.search(r"proxy_read_timeout (\d+)m;", stream)
    assert minutes is not None
    assert int(minutes[1]) * 60 >= 10 * defaults["heartbeat"]
    assert GREETING.startswith(b"retry: ")


def _bytes(text: str) -> int:
    found = re.search(r"client_max_body_size (\d+)([mk]);", text)
    assert found is not None
    return int(found[1]) * {"k": 2**10, "m": 2**20}[found[2]]


def test_the_file_for_hosts_does_the_same(settings: Settings, writer: Writer, token: str, tmp_path: Path) -> None:
    """Its own nginx.conf beside it, as Debian has it; two stream processes, one of which is not there."""
    host = (NGINX / "host.conf").read_text()
    assert re.findall(r"(?m)^map \S+ (\$\w+)|^(include \S+);", host) == re.findall(
        r"(?m)^map \S+ (\$\w+)|^(include \S+);", (NGINX / "conf.d" / "headway.conf").read_text()
    )
    with served(create_stream(settings)) as stream:
        there, dead = httpx.URL(stream).port, own_port()

        def as_on_a_host(text: str) -> str:
            listening = re.findall(r"listen 127\.0\.0\.1:(\d+)", text)
            access = re.findall(r"access_log (\S+)", text)[0]
            pem = re.findall(r"ssl_certificate (\S+);", text)[0]
            return exchange(
                host.replace("/var/log/nginx/headway.log", access),
                {
                    "server 127.0.0.1:8000;": f"server 127.0.0.1:{there};",
                    "server 127.0.0.1:8001 ": f"server 127.0.0.1:{there} ",
                    "server 127.0.0.1:8002 ": f"server 127.0.0.1:{dead} ",
                    "listen 80;": f"listen 127.0.0.1:{listening[0]};",
                    "listen [::]:80;": "",
                    "listen 443 ssl": f"listen 127.0.0.1:{listening[1]} ssl",
                    "listen [::]:443 ssl http2;": "",
                    "/etc/headway/tls/certificate.pem": pem,
                    "/etc/headway/tls/key.pem": pem,
                },
            )

        changes = {"conf.d/headway.conf": as_on_a_host}
        with nginx(stream, stream, tmp_path / "state", changes=changes) as gateway:
            for _ in range(4):
                with Stream(gateway.address, writer.batch_id, token) as reader:
                    assert reader.delta()
