"""The commands that images run: one service each, in the foreground, with settings from the environment."""

import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from shared.settings import Settings
from tests.support.batches import make_batch, wait_finished, wait_for
from tests.support.ports import own_port
from tests.support.processes import environment
from tests.support.running import HEADWAY, alive


@pytest.mark.parametrize("service", ["api", "stream"])
def test_a_service_answers_until_it_is_told_to_leave(settings: Settings, service: str) -> None:
    port = own_port()
    with subprocess.Popen([*HEADWAY, service], env=environment(settings) | {"HEADWAY_PORT": str(port)}) as process:

        def live() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health/live", trust_env=False).status_code == 200
            except httpx.HTTPError:
                assert process.poll() is None
                return False

        wait_for(live, f"{service} to answer")
        process.terminate()
        assert process.wait(15) == 0


def test_a_worker_that_is_killed_is_replaced_and_all_leave_together(
    settings: Settings, engine: sa.Engine, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with log.open("w") as output:
        command = [*HEADWAY, "worker", "--queue", "default", "--processes", "2"]
        process = subprocess.Popen(command, env=environment(settings), stderr=output, stdout=output)

    def pids() -> list[int]:
        return [int(pid) for pid in re.findall(r"worker ready +pid=(\d+)", log.read_text())]

    try:
        first = wait_for(lambda: pids() if len(pids()) == 2 else None, "two workers")
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: len(pids()) == 3, "a third")
        batch_id = make_batch(engine, 20, params={"steps": 2, "stepMs": 5})
        assert wait_finished(engine, batch_id).status == "COMPLETED"
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert not any(alive(pid) for pid in pids())
    assert "worker default was ended by signal 9, it is started again" in log.read_text()


def test_migrate_says_what_is_wrong_and_does_nothing_twice(database_url: str, tmp_path: Path) -> None:
    plain = {"PATH": os.environ["PATH"], "HEADWAY_HOME": str(tmp_path)}
    for url, status, words in (
        (database_url, 0, ""),
        ("", 2, "DATABASE_URL is not set"),
        ("mysql://x", 2, "expected postgresql://"),
        (f"postgresql://headway@127.0.0.1:{own_port()}/x", 2, "DATABASE_URL cannot be used"),
    ):
        done = subprocess.run(
            [*HEADWAY, "migrate"], env=plain | {"DATABASE_URL": url}, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_a_worker_refuses_settings_and_queues_that_make_no_sense(settings: Settings) -> None:
    for arguments, more, words in (
        (["--queue", "salon"], {}, "There is no queue salon"),
        ([], {"HEADWAY_LEASE": "0"}, "HEADWAY_LEASE"),
    ):
        command = [*HEADWAY, "worker", *arguments]
        done = subprocess.run(command, env=environment(settings) | more, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert words in done.stderr
