"""Processes that are kept alive, with programs that live as long as a test wants."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event

import pytest

from infra.supervisor import Keeper, Program, stop_all
from tests.support.batches import wait_for
from tests.support.running import alive

SLEEP = ["-c", "import time; time.sleep(600)"]
DEAF = [
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]


class Kept:
    """Keepers of a test, and what they said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keepers: list[Keeper] = []
        self.said: list[str] = []
        self.changes = 0

    def keep(
        self, arguments: list[str], *, environment: Mapping[str, str] = os.environ, ready_file: Path | None = None
    ) -> Keeper:
        program = Program("part", arguments, environment, log=self.directory / "part.log", ready_file=ready_file)
        keeper = Keeper(program, changed=self._changed, say=self.said.append)
        self.keepers.append(keeper)
        keeper.start()
        keeper.await_started()
        return keeper

    def _changed(self) -> None:
        self.changes += 1


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    stop_all(kept.keepers, 0, Event())
    assert all(keeper.ended(5) for keeper in kept.keepers)


def test_what_is_killed_is_started_again_and_it_is_said(kept: Kept) -> None:
    keeper = kept.keep(SLEEP)
    first = keeper.pid
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: keeper.pid not in (0, first), "another process")
    assert alive(keeper.pid)
    assert not alive(first)
    assert kept.said == ["part was ended by signal 9, it is started again"]
    assert kept.changes == 2


def test_what_keeps_ending_is_started_less_often_and_reported(kept: Kept) -> None:
    began = time.monotonic()
    keeper = kept.keep(["-c", "raise SystemExit(3)"])
    wait_for(lambda: keeper.failures >= 5, "the fifth end")
    assert time.monotonic() - began > 0.1 + 0.2 + 0.4 + 0.8
    assert kept.said[0] == "part ended with status 3, it is started again"
    assert kept.said[4].endswith("that is 5 times now")


def test_what_cannot_be_started_at_all_is_trouble_and_no_crash(kept: Kept) -> None:
    program = Program("part", SLEEP, os.environ, log=kept.directory / "missing" / "part.log")
    keeper = Keeper(program, changed=lambda: None, say=kept.said.append)
    kept.keepers.append(keeper)
    keeper.start()
    keeper.await_started()
    assert keeper.trouble.startswith("part did not start: ")


def test_renewing_is_no_failure_and_takes_the_new_environment(kept: Kept, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write = f"import os, time; open({str(out)!r}, 'a').write(os.environ['WORD']); time.sleep(600)"
    keeper = kept.keep(["-c", write], environment={**os.environ, "WORD": "new"})
    wait_for(lambda: out.exists() and out.read_text() == "new", "the first process")
    first = keeper.pid
    assert isinstance(keeper.part, Program)
    keeper.part.environment = {**os.environ, "WORD": "er"}
    keeper.renew()
    wait_for(lambda: out.read_text() == "newer", "the renewed process")
    assert keeper.pid != first
    assert kept.said == []


def test_stopping_is_asked_for_first(kept: Kept, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    polite = f"""
import pathlib, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
pathlib.Path({str(ready)!r}).touch()
signal.sigwait([signal.SIGTERM])
print("goodbye")
"""
    keeper = kept.keep(["-c", polite], ready_file=ready)
    wait_for(ready.exists, "the program to be ready")
    stop_all([keeper], 10, Event())
    assert keeper.ended(0)
    assert (tmp_path / "part.log").read_text() == "goodbye\n"
    assert not ready.exists()


@pytest.mark.parametrize("hurry", [False, True])
def test_who_does_not_listen_is_ended_in_bounded_time(kept: Kept, *, hurry: bool) -> None:
    keeper = kept.keep(DEAF)
    wait_for(lambda: "deaf" in (kept.directory / "part.log").read_text(), "the program to be deaf")
    pid, now = keeper.pid, Event()
    if hurry:
        now.set()
    began = time.monotonic()
    stop_all([keeper], 60 if hurry else 0.3, now)
    assert time.monotonic() - began < 5
    assert keeper.ended(0)
    assert not alive(pid)


def test_children_die_with_a_killed_parent() -> None:
    source = (
        "import os, time; from infra.supervisor import Keeper, Program\n"
        f"keeper = Keeper(Program('part', {SLEEP!r}, os.environ), changed=lambda: None, say=print)\n"
        "keeper.start(); keeper.await_started(); print(keeper.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    wait_for(lambda: not alive(child), "the child to end")
