"""Nothing leaks: everything that a full run wrote, by every process, is searched for every secret that it knew."""

import base64
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

import httpx
import psycopg
import pytest
import redis

from shared.auth import issue_token
from shared.kinds.secret import HIDDEN
from shared.settings import Settings
from tests.support import leaky
from tests.support.batches import wait_for
from tests.support.ports import own_port
from tests.support.running import Run, headway, started

ROOT = Path(__file__).parents[2]
HOOK = ROOT / "tests" / "support" / "leaky_home"
JWT = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")
NEVER = "00000000-0000-7000-8000-000000000000"


class Known:
    """What this run knows and nobody else is to learn; each value is recognised wherever it turns up."""

    def __init__(self) -> None:
        def value(name: str) -> str:
            return f"{name}-{token_hex(12)}"

        self.secret = value("signing-secret-of-the-tokens")
        self.ticket_key = value("signing-key-of-the-tickets")
        self.old_key = value("old-signing-key-of-the-tickets")
        self.password = f'pass"word/ü+{token_hex(8)} & \\<€>'
        self.key_file = "-----BEGIN KEY-----\n" + "\n".join(token_hex(20) for _ in range(4)) + "\n-----END KEY-----"
        self.header = value("Bearer")
        self.by_host = value("of-host")
        self.wrong = value("never-accepted")
        self.private = value("only-for-its-owner")
        """Names, titles, metadata: in replies and in Redis, but in no log."""

    def params(self, mode: str) -> dict[str, Any]:
        return {
            "mode": mode,
            "password": self.password,
            "keys": [self.key_file],
            "headers": {"Authorization": self.header},
            "byHost": {"example.org": self.by_host},
        }


class Written:
    """Texts by where they were found."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, where: str, text: str) -> None:
        with self._lock:
            self.texts[where] = self.texts.get(where, "") + text + "\n"

    def around(self, word: str) -> dict[str, str]:
        """Where it is, with what stands about the first."""
        return {where: text.partition(word)[0][-200:] + word for where, text in self.texts.items() if word in text}

    def having(self, word: str) -> list[str]:
        return [where for where, text in self.texts.items() if word in text]


class Client:
    """Every reply is kept, but for those whose purpose is to hand out a ticket."""

    def __init__(self, address: str, written: Written, known: Known) -> None:
        self._http = httpx.Client(base_url=address, trust_env=False, timeout=30)
        self._written = written
        common = {"database_url": "postgresql:///", "redis_url": "redis:///", "ticket_key": known.ticket_key}
        good = Settings(**common, secret=known.secret)
        others = Settings(**common, secret=known.wrong + known.wrong)
        self.good = issue_token(good, "anna")
        self.tokens = {
            "good": self.good,
            "expired": issue_token(good, "anna", ttl=-60),
            "of another secret": issue_token(others, "anna"),
            "reading": issue_token(good, "anna", scope="read"),
            "other owner": issue_token(good, "berta"),
            "not even one": known.wrong,
        }

    def ask(
        self, method: str, path: str, *, who: str | None = "good", hands_out: bool = False, **content: Any
    ) -> httpx.Response:
        headers = content.pop("headers", {})
        if who is not None:
            headers = {"Authorization": f"Bearer {self.tokens[who]}"} | headers
        reply = self._http.request(method, path, headers=headers, **content)
        if not hands_out:
            self._written.add(f"reply to {method} {urlsplit(path).path}", f"{reply.headers}\n{reply.text}")
        return reply

    def create(self, batch: dict[str, Any]) -> dict[str, Any]:
        reply = self.ask("POST", "/api/batches", hands_out=True, json=batch)
        assert reply.status_code == 201, reply.text
        created: dict[str, Any] = reply.json()
        rest = {name: value for name, value in created.items() if name not in {"streamUrl", "webUrl", "reportToken"}}
        self._written.add("reply to POST /api/batches", json.dumps(rest))
        return created

    def wait(self, batch_id: str) -> dict[str, Any]:
        def finished() -> dict[str, Any] | None:
            with suppress(httpx.TransportError):
                reply = self.ask("GET", f"/api/batches/{batch_id}")
                if reply.status_code == 200 and reply.json()["finishedAt"]:
                    return dict(reply.json())
            return None

        return dict(wait_for(finished, "the batch to finish", 60))

    def record(self, name: str, url: str, *, token: str | None = None) -> threading.Thread:
        """Keeps what a stream says, to its end; join the thread."""

        def read() -> None:
            headers = {"Accept": "text/event-stream"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
            with (
                suppress(httpx.TransportError),
                self._http.stream("GET", url, headers=headers, timeout=60) as response,
            ):
                for chunk in response.iter_text():
                    self._written.add(name, chunk)

        thread = threading.Thread(target=read)
        thread.start()
        return thread

    def close(self) -> None:
        self._http.close()


class Monitor:
    """All that passes through Redis, as MONITOR tells it, through restarts."""

    def __init__(self, url: str, written: Written) -> None:
        self._url, self._written = url, written
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(20)

    def _follow(self) -> None:
        while not self._stop.is_set():
            client = redis.Redis.from_url(self._url, socket_timeout=1)
            with suppress(redis.RedisError, OSError), client.monitor() as monitor:
                self._listen(monitor)
            client.close()
            time.sleep(0.05)

    def _listen(self, monitor: Any) -> None:
        while not self._stop.is_set():
            with suppress(redis.TimeoutError):
                self._written.add("redis", monitor.next_command()["command"])


@pytest.fixture(params=["json", "text"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def run(tmp_path: Path, form: str, known: Known) -> Iterator[Run]:
    more = {
        "HEADWAY_SECRET": known.secret,
        "HEADWAY_TICKET_KEY": known.ticket_key,
        "HEADWAY_TICKET_KEY_OLD": known.old_key,
        "HEADWAY_LOG_FORMAT": form,
        "HEADWAY_LEASE": "2",
        "HEADWAY_CANCEL_GRACE": "0.5",
        "HEADWAY_HEARTBEAT": "1",
        "HEADWAY_DETECTOR": str(tmp_path / "none.onnx"),  # named, so none is built
        "PYTHONPATH": os.pathsep.join(map(str, (HOOK, ROOT))),
    }
    with started(tmp_path / "home", "--no-demo", **more) as run:
        yield run


MODES = ("say", "raise", "retryable", "fatal", "crash", "hang", "refused", "unclean")


def batch(known: Known, *modes: str, **fields: Any) -> dict[str, Any]:
    jobs = [{"name": f"{known.private} {mode}", "params": known.params(mode)} for mode in modes]
    return {"kind": "leaky", "title": known.private, "metadata": {"note": known.private}, "jobs": jobs} | fields


def test_nothing_that_a_full_run_writes_holds_a_secret(run: Run, known: Known, form: str) -> None:
    written = Written()
    running = run.running
    with psycopg.connect(running.database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE jobs ADD CHECK (result IS NULL OR result <> '\"refused\"'::jsonb)")
    monitor = Monitor(running.redis_url, written)
    client = Client(running.address, written, known)
    try:
        _good_and_bad(run, client, known)
        if form == "json":  # which processes die, and what is typed, is no matter of the form
            _outages(run, client, known, written)
            _commands(run, client, known, written)
    finally:
        client.close()
        monitor.close()
        status = run.stop()
    run.close()
    assert status == 0
    logs = _collect(run, written)

    _assert_that_all_of_it_was_there(written, logs)
    passwords = [unquote(urlsplit(url).password or "") for url in (running.database_url, running.redis_url)]
    assert all(passwords)
    nowhere = [known.secret, known.ticket_key, known.old_key, known.password, known.header, known.by_host, known.wrong]
    nowhere += [*known.key_file.splitlines()[1:-1], *passwords, client.good]
    for value in nowhere:
        for way in _ways(value):
            assert written.around(way) == {}
    assert {where: JWT.findall(text) for where, text in written.texts.items() if JWT.search(text)} == {}
    assert [where for where in written.having(known.private) if where in logs] == [], "what is its owner's, in a log"
    for where in logs:
        _assert_well_formed(where, written.texts[where], form)


def _good_and_bad(run: Run, client: Client, known: Known) -> None:
    created = client.create(batch(known, *MODES))
    batch_id = created["batchId"]
    streams = [
        client.record("stream by ticket", created["streamUrl"]),
        client.record("stream by token", f"/api/batches/{batch_id}/stream", token=client.good),
    ]
    ticket = client.ask("POST", f"/api/batches/{batch_id}/tickets", hands_out=True).json()["ticket"]
    finished = client.wait(batch_id)
    for stream in streams:
        stream.join(30)
    assert finished["counts"] == {
        "queued": 0, "processing": 0, "completed": 2, "failed": 6, "cancelled": 0, "total": 8,
    }  # fmt: skip
    assert HIDDEN in json.dumps(finished["summary"], ensure_ascii=False)
    jobs = client.ask("GET", f"/api/batches/{batch_id}/jobs").json()["items"]
    for job in jobs:
        shown = client.ask("GET", f"/api/jobs/{job['id']}").json()
        assert shown["params"] == {
            "mode": shown["params"]["mode"],
            "password": HIDDEN,
            "keys": [HIDDEN],
            "headers": HIDDEN,
            "byHost": {"example.org": HIDDEN},
        }
    (schema,) = [item["schema"] for item in client.ask("GET", "/api/kinds").json()["items"] if item["kind"] == "leaky"]
    assert schema["$defs"]["Leaky"]["properties"]["password"]["format"] == "password"

    reads = [
        f"/api/batches/{batch_id}{rest}"
        for rest in ("/changes?since=0", "/logs", "/logs?format=text", "/logs?q=word", "/timeline", "/stream")
    ]
    for path in (*reads, "/api/batches", f"/api/batches?q={known.private}", "/openapi.json", "/health/ready", "/"):
        client.ask("GET", path)
    for path in reads:
        separator = "&" if "?" in path else "?"
        client.ask("GET", f"{path}{separator}ticket={ticket}", who=None)
        client.ask("GET", f"{path}{separator}ticket={ticket}x", who=None)
        client.ask("GET", f"{path}{separator}ticket={ticket}&unheard-of=1", who=None)
    _report(client, known)
    for who in [name for name in client.tokens if name != "good"]:
        for path in (*reads, "/api/batches", f"/api/jobs/{jobs[0]['id']}", f"/api/nowhere/{ticket}"):
            client.ask("GET", path, who=who)
        client.ask("POST", "/api/batches", who=who, hands_out=who == "other owner", json=batch(known, "say"))
    # where it does not belong: in the address, in a header, in a query
    for path in (f"/api/batches/{ticket}", f"/{ticket}", f"/api/batches/{NEVER}/stream", f"/static/{ticket}"):
        client.ask("GET", path, headers={"Last-Event-ID": known.wrong[:30], "X-Request-ID": f"x {ticket}"})
        client.ask("DELETE", path)
    for query in (f"status={ticket}", f"cursor={ticket}", f"limit={ticket}"):
        client.ask("GET", f"/api/batches?{query}")
    _refused(client, known)
    client.ask("POST", "/api/uploads", files={"file": (f"{known.private}.jpg", b"x")})
    client.ask("POST", "/api/uploads", files={known.wrong[:5]: (f"{known.private}.jpg", b"x")})
    client.ask("POST", "/api/uploads", content=known.password.encode(), headers={"Content-Type": "multipart/form-data"})
    for action in ("cancel", "pause", "resume", "retry-failed"):
        client.ask("POST", f"/api/batches/{batch_id}/{action}")
    client.wait(batch_id)
    client.ask("POST", f"/api/jobs/{jobs[3]['id']}/retry")
    client.wait(batch_id)
    client.ask("DELETE", f"/api/batches/{batch_id}")


def _report(client: Client, known: Known) -> None:
    """Work that is done elsewhere: right, wrong, and by a token that is used where it does not belong from then on."""
    jobs = [{"name": known.private, "params": {"data": {"a": known.private}}}]
    created = client.create({"kind": "external", "title": known.private, "jobs": jobs})
    token = client.tokens["reporting"] = created["reportToken"]
    client.ask("POST", f"/api/batches/{created['batchId']}/report-tokens", hands_out=True)
    (job,) = client.ask("GET", f"/api/batches/{created['batchId']}/jobs", who="reporting").json()["items"]
    path = f"/api/jobs/{job['id']}/report"
    for who in ("reporting", "good", "expired", "other owner"):
        for reports in (
            [{"sequence": 1, "type": "start"}, {"sequence": 2, "type": "log", "text": known.private}],
            [{"sequence": 3, "type": known.wrong}, {"sequence": known.wrong, "type": "log", "text": 1}],
            [{"sequence": 4, "type": "fail", "message": known.private, "code": known.wrong + " "}],
            [{"sequence": 5, "type": "metadata", "metadata": {known.private: known.private}}],
        ):
            client.ask("POST", path, who=who, json={"run": NEVER, "reports": reports})
        client.ask("POST", path, who=who, json={"run": known.wrong, "reports": known.wrong})
    client.ask("GET", f"{path}?token={token}")
    client.ask("POST", path, json={"run": NEVER, "reports": [{"sequence": 9, "type": "fail", "message": "over"}]})
    client.wait(created["batchId"])


def _refused(client: Client, known: Known) -> None:
    """Submissions with something wrong about the secret itself or beside it."""
    good = known.params("say")
    secret = known.password
    for params in (
        good | {"password": secret[:3]},
        good | {"password": secret * 50},
        good | {"password": {secret: [secret]}},
        good | {"password": [secret]},
        good | {"password": f"weak {secret}"},
        good | {"password": f"{secret}\0"},
        good | {"keys": secret},
        good | {"keys": [{secret: secret}]},
        good | {"headers": {secret: 5}},
        good | {"headers": {secret: "\0"}},
        good | {"headers": secret},
        good | {"byHost": {"a": [secret]}},
        good | {"mode": secret},
        good | {"password": secret, "passwort": secret},
        {"password": secret},
        secret,
        [secret],
    ):
        for fields in ({}, {"kind": "unheard-of"}, {"kind": secret}, {"title": {"a": secret}}, {"priority": secret}):
            body = batch(known) | {"jobs": [{"name": "", "params": params}]} | fields
            reply = client.ask("POST", "/api/batches", json=body)
            assert reply.status_code == 422, reply.text
    mistake = batch(known) | {"jobs": [{"name": "", "params": good | {"password": f"mistake {secret}"}}]}
    assert client.ask("POST", "/api/batches", json=mistake).status_code == 500
    whole = json.dumps(batch(known, "say"))
    for text in (whole[:-20], whole.replace(":", " ", 1), f'"{known.wrong}"', f"{known.wrong}", whole + known.wrong):
        client.ask("POST", "/api/batches", content=text, headers={"Content-Type": "application/json"})
    client.ask("POST", "/api/batches", content=whole, headers={"Content-Type": f"text/{known.wrong}"})
    client.ask("POST", "/api/batches", content=whole.encode("utf-16"), headers={"Content-Type": "application/json"})


def _outages(run: Run, client: Client, known: Known, written: Written) -> None:
    """Redis, PostgreSQL, the web process and a worker die while secrets are about."""
    for part in ("redis", "postgres", "worker", "web"):
        created = client.create(batch(known, "say", "raise", "say"))
        name = f"stream while {part} is killed"
        stream = client.record(name, created["streamUrl"])
        wait_for(lambda name=name: name in written.texts, "the stream to begin")
        before = run.running.pids[part]
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        for path in (f"/api/batches/{created['batchId']}", f"/api/batches?q={known.private}"):
            with suppress(httpx.TransportError):
                client.ask("GET", path)
        with suppress(httpx.TransportError):
            client.ask("POST", "/api/batches", hands_out=True, json=batch(known, "say"))
        wait_for(lambda part=part, before=before: _renewed(run, part, before), f"{part} to come back", 30)
        client.wait(created["batchId"])
        stream.join(60)
    wait_for(lambda: client.ask("GET", "/health/ready", who=None).status_code == 200, "all to be ready", 30)


def _renewed(run: Run, part: str, before: list[int]) -> bool:
    after = run.running.pids[part]
    return len(after) == len(before) and not set(after) & set(before)


def _commands(run: Run, client: Client, known: Known, written: Written) -> None:
    """What they say of trouble. What `submit` prints on success is an address with a ticket: that is its purpose."""
    created = client.create(batch(known, "say"))
    client.wait(created["batchId"])
    page = f"{run.running.address}{created['webUrl']}"
    for arguments, status in (
        (["watch", page, "--token", client.good], 0),
        (["watch", f"{run.running.address}{created['streamUrl']}", "--token", client.good], 2),
        (["watch", created["batchId"], "--token", f"{known.wrong}\n{known.wrong}"], 2),
        (["watch", created["batchId"], "--token", known.wrong], 5),
        (["submit", "leaky", "--params", json.dumps(known.params("nonsense")), "--token", client.good], 2),
    ):
        done = headway(run.home, *arguments)
        written.add("commands", done.stdout + done.stderr)
        assert done.returncode == status, done.stderr
    for variable, url in (
        ("DATABASE_URL", f"postgresql://headway:{known.wrong}@127.0.0.1:{known.wrong}/headway"),
        ("DATABASE_URL", f"postgresql://headway:{known.wrong}@127.0.0.1:{own_port()}/headway"),
        ("REDIS_URL", f"redis://:{known.wrong}@127.0.0.1:{known.wrong}/0"),
    ):
        more = {"DATABASE_URL": "postgresql:///x", "REDIS_URL": "redis:///", "HEADWAY_SECRET": known.secret}
        more |= {"HEADWAY_TICKET_KEY": known.ticket_key, variable: url}
        for command in ("api", "migrate") if "x" in url else ("api",):
            if str(known.wrong) not in urlsplit(url).netloc.rpartition("@")[2] and command == "api":
                continue  # it would start, and wait for its database
            done = headway(run.home, command, **more)
            written.add("commands", done.stdout + done.stderr)
            assert done.returncode == 2, done.stderr


def _collect(run: Run, written: Written) -> set[str]:
    """What was left on the disk, and on the terminal. Returns which of it are our own logs."""
    written.add("terminal", run.text)
    ours = set()
    for path in sorted(run.home.rglob("*log*")):
        if path.is_file() and "data" not in path.relative_to(run.home).parts:
            name = str(path.relative_to(run.home))
            written.add(name, path.read_text())
            if path.parent == run.home / "logs":
                ours.add(name)
    return ours


def _assert_that_all_of_it_was_there(written: Written, logs: set[str]) -> None:
    """Or nothing would be proved."""
    worker, web = written.texts["logs/worker-default.log"], written.texts["logs/web.log"]
    assert {"logs/web.log", "logs/worker-default.log", "logs/worker-photos.log"} <= logs
    for words in ("printed", "a handler raised", "told our log", "from a thread", "cannot be stored", "to clean up"):
        assert words in worker, words
    for words in ("request", "/api/batches/{batch_id}/stream", "unexpected error", "the rules of leaky failed"):
        assert words in web, words
    assert "database system is ready" in written.texts["postgres/server.log"]
    assert "Ready to accept connections" in written.texts["valkey/server.log"]
    assert "headway:batch:{" in written.texts["redis"]
    assert "headway:dramatiq" in written.texts["redis"]
    for name in [name for name in written.texts if name.startswith("stream")]:
        assert "event: progress" in written.texts[name]
    for word in ("about to", "signing in", "event: complete"):
        assert written.having(word), word
    assert len(written.having(HIDDEN)) > 10


def _assert_well_formed(where: str, text: str, form: str) -> None:
    for line in text.splitlines():
        if form == "text":
            assert not line.startswith(leaky.FORGED), where
            assert "\x1b" not in line, where
        elif line:
            event = json.loads(line)
            assert event.keys() >= {"timestamp", "level", "event", "service"}, (where, line)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", event["timestamp"])


def _ways(value: str) -> set[str]:
    """How it could have been written, worked out here without the code that is to find it."""
    data = value.encode()
    ways = {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(value)[1:-1])[1:-1],
        repr(value)[1:-1],
        repr(data)[2:-1],
        quote(value),
        quote(value, safe=""),
        quote_plus(value),
        data.hex(),
    }
    half = value[: len(value) // 2]  # which a cut would leave
    ways |= {half, json.dumps(half)[1:-1], json.dumps(half, ensure_ascii=False)[1:-1]}
    for before in ("", "x", "xx"):
        encoded = base64.b64encode(before.encode() + data).decode()
        ways.add(encoded[4 if before else 0 : len(encoded) - len(encoded) % 4 - 4])
    return {way for way in ways if len(way) > 3}
