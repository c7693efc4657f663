"""Workers tell the listeners that are installed with them, also those that hang, and when a worker is killed."""

import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from threading import Event, Thread
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa

from services.worker import dispatcher as dispatcher_module
from services.worker.handlers.rehearsal import rehearsal
from services.worker.process import WorkerProcess, quiet_dramatiq
from shared import models
from shared.kinds import KINDS
from shared.settings import Settings
from tests.support.batches import job_rows, wait_finished, wait_for
from tests.support.listening import Told, ids_of, outbox
from tests.support.plugged import install
from tests.support.processes import service
from tests.support.running import alive
from tests.support.working import submit

_NOTES = """
    import os, time

    def note(event):
        line = f"{event.batch_id} {event.id} {os.getpid()}\\n"
        file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)
        time.sleep(0.005)

    def hang(event):
        time.sleep(3600)
"""


@contextmanager
def worker(settings: Settings, place: Path, **listeners: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker process that has these listeners of _NOTES, and takes jobs already."""
    package = place / "installed"
    if not package.exists():
        package.mkdir()
        (package / "notes.py").write_text(dedent(_NOTES))
        install(package, "notes", {"headway.listeners": {name: f"notes:{where}" for name, where in listeners.items()}})
    more = {"PYTHONPATH": str(package), "NOTES": str(place / "notes")}
    ready = place / f"ready-{time.monotonic_ns()}"
    arguments = ("--queue", "default", "--ready-file", str(ready))
    with service("services.worker", *arguments, settings=settings, more=more) as process:
        wait_for(lambda: ready.exists() or process.poll() is not None, "the worker to be ready", 60)
        assert process.poll() is None
        yield process


def notes(place: Path) -> dict[UUID, list[int]]:
    """By batch: what was told, in order."""
    told: dict[UUID, list[int]] = defaultdict(list)
    path = place / "notes"
    for line in path.read_text().splitlines() if path.exists() else []:
        batch_id, number, _ = line.split()
        told[UUID(batch_id)].append(int(number))
    return told


def test_workers_that_are_killed_lose_no_transition(engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(settings, lease=1)
    with worker(settings, tmp_path, notes="note") as first, worker(settings, tmp_path):
        batch_ids = [submit(engine, settings, 30, params={"steps": 1, "stepMs": 1}) for _ in range(3)]
        wait_for(lambda: sum(map(len, notes(tmp_path).values())) > 20, "some to be told", 60)
        first.send_signal(signal.SIGKILL)
        wait_for(lambda: not alive(first.pid), "its end")
        with worker(settings, tmp_path):
            for batch_id in batch_ids:
                wait_finished(engine, batch_id, 60)
            wait_for(lambda: not outbox(engine), "all to be told", 60)
    told = notes(tmp_path)
    for batch_id in batch_ids:
        expected = ids_of(engine, batch_id)
        assert list(dict.fromkeys(told[batch_id])) == expected, "each for the first time in order, and none missing"


def test_a_listener_that_hangs_stops_neither_jobs_nor_others_nor_the_shutdown(
    engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    with worker(settings, tmp_path, hanging="hang", notes="note") as process:
        batch_id = submit(engine, settings, 5, params={"steps": 1, "stepMs": 1})
        wait_finished(engine, batch_id)
        wait_for(lambda: len(notes(tmp_path)[batch_id]) == len(ids_of(engine, batch_id)), "the other one to be told")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert [row.listener for row in outbox(engine)] == ["hanging"]
    assert all(job.status == "COMPLETED" for job in job_rows(engine, batch_id))


def test_what_a_worker_commits_it_tells_without_waiting_for_its_next_look(
    engine: sa.Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_PERIOD", 3600)
    quiet_dramatiq()
    told, stop = Told(), Event()
    process = WorkerProcess(settings, "default", KINDS, {"rehearsal": rehearsal}, listeners={"test": told})
    thread = Thread(target=process.run, args=(stop,))
    thread.start()
    try:
        wait_for(lambda: listeners(engine) == ["test"], "the listener to be known")
        batch_id = submit(engine, settings, 3, params={"steps": 1, "stepMs": 1})
        wait_finished(engine, batch_id)
        wait_for(lambda: told.ids(batch_id) == ids_of(engine, batch_id), "all to be told")
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def listeners(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(models.listeners.c.name)).scalars())
