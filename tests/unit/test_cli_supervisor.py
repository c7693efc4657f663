"""Processes that are kept alive, with programs that live as long as a test wants."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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

    def keep(self, arguments: list[str], **options: Path) -> Keeper:
        program = Program("part", arguments, os.environ, log=self.directory / "part.log", **options)
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
    keeper = kept.keep(["-c", f"import os, time; open({str(out)!r}, 'a').write(os.environ['WORD']); time.sleep(600)"])
    assert isinstance(keeper.part, Program)
    keeper.part.environment = {**os.environ, "WORD": "new"}
    wait_for(lambda: keeper.failures or keeper.pid, "a start")  # the first has no WORD and fails
    first = wait_for(lambda: keeper.pid if out.exists() else 0, "a process that is up")
    keeper.part.environment = {**os.environ, "WORD": "er"}
    before = list(kept.said)
    keeper.renew()
    wait_for(lambda: out.read_text() == "newer", "the renewed process")
    assert keeper.pid != first
    assert kept.said == before


def test_stopping_is_asked_for_first(kept: Kept, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    keeper = kept.keep(
        ["-c", f"import signal\nsignal.sigwait([signal.SIGTERM])\nopen({str(mark)!r}, 'w')"],
        ready_file=tmp_path / "ready",
    )
    (tmp_path / "ready").touch()
    wait_for(
        lambda: b"-c" in Path(f"/proc/{keeper.pid}/cmdline").read_bytes().split(b"\0")[1:2], "the program to be there"
    )
    stop_all([keeper], 10, Event())
    assert keeper.ended(0)
    assert not (tmp_path / "ready").exists()


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


def test_children_die_with_a_killed_parent_and_so_do_theirs_that_are_asked_to_end(tmp_path: Path) -> None:
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
