"""Nothing leaks: everything that a full run wrote, by every process, is searched for every secret that it knew."""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import psycopg
import pytest

from shared.kinds.secret import HIDDEN
from tests.support import leaky
from tests.support.batches import wait_for
from tests.support.known import Known, ways_of
from tests.support.ports import own_port
from tests.support.running import Run, headway, started
from tests.support.written import Client, Monitor, Written

ROOT = Path(__file__).parents[2]
HOOK = ROOT / "tests" / "support" / "leaky_home"
JWT = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")
NEVER = "00000000-0000-7000-8000-000000000000"


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
        for way in ways_of(value):
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
        wait_for(lambda name=name: "event: progress" in written.texts.get(name, ""), "the stream to say something")
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
