"""`headway run`: one start for most of these, whose demonstration goes on while its parts are killed."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from infra.cli.demo import PHOTOS
from tests.support.batches import wait_for
from tests.support.ports import own_port
from tests.support.running import HEADWAY, Run, alive, environment, headway, started
from tests.support.streams import status

DETECTOR = Path(__file__).parents[2] / ".headway" / "detector.onnx"


REPEAT = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    home = tmp_path_factory.mktemp("a home with spaces") / "state"
    more = {"HEADWAY_DETECTOR": str(DETECTOR)} if DETECTOR.is_file() else {}
    # a killed worker's jobs go on after this, and a stream's life is short enough to see its end
    with started(
        home, "--repeat", str(REPEAT), **more, HEADWAY_LEASE="3", HEADWAY_HEARTBEAT="1", HEADWAY_LIFETIME="4"
    ) as run:
        yield run


def mode(path: Path) -> str:
    return f"{path.stat().st_mode & 0o777:o}"


def test_says_where_it_is_and_writes_down_what_runs(run: Run) -> None:
    running = run.running
    assert running.address == run.await_line("ready ")
    assert {name: len(pids) for name, pids in running.pids.items()} == {
        "web": 1,
        "worker": 2,
        "postgres": 1,
        "redis": 1,
    }
    assert all(alive(pid) for pid in run.pids)
    assert mode(run.home / "run.json") == "600"
    assert json.loads((run.home / "run.json").read_text()).keys() == {"address", "databaseUrl", "redisUrl", "pids"}
    assert httpx.get(f"{running.address}/health/ready", trust_env=False).status_code == 200


def test_keeps_its_secrets_to_itself(run: Run) -> None:
    assert mode(run.home) == "700"
    for name in ("secret", "ticket-key"):
        assert mode(run.home / name) == "600"
        key = (run.home / name).read_text()
        assert len(key) >= 32
        assert key not in run.text
        assert not any(key in log.read_text() for log in (run.home / "logs").iterdir())


def test_prints_the_page_of_a_demonstration_and_a_curl_line_that_works(run: Run) -> None:
    run.await_line("Ctrl-C stops everything.")
    page = re.search(r"^  (http://\S+/batches/[0-9a-f-]{36})#ticket=\S+$", run.text, re.MULTILINE)
    assert page
    assert "Headway" in httpx.get(page[1], trust_env=False).text
    curl = re.search(r"^  curl -N '(http://\S+)'$", run.text, re.MULTILINE)
    assert curl
    with httpx.stream("GET", curl[1], trust_env=False) as response:
        assert next(response.iter_lines()).startswith("retry: ")


def test_passes_its_own_smoke_test(run: Run) -> None:
    done = run.headway("smoke", "--wait", "--heartbeat", "1", "--lifetime", "4")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("✓ passed") == 33
    assert "All 33 checks passed" in done.stdout


def test_smoke_fails_on_a_server_that_does_not_keep_the_protocol(run: Run) -> None:
    # its pages are there, but a token of somebody else's secret is good for nothing
    done = run.headway("smoke", run.running.address, "--token", "wrong")
    assert done.returncode == 1
    assert "✗ FAILED: a rehearsal of 6 jobs is accepted" in done.stdout


@pytest.mark.parametrize(
    ("params", "status", "word"),
    [
        ('{"steps": 2, "stepMs": 1}', 0, "completed"),
        ('{"steps": 2, "stepMs": 1, "failAtStep": 1}', 1, "failed"),
        ('[{"steps": 2, "stepMs": 1, "failAtStep": 1}, {"steps": 2, "stepMs": 1}]', 3, "completed in part"),
    ],
)
def test_the_exit_status_of_watching_is_the_outcome(run: Run, params: str, status: int, word: str) -> None:
    done = run.headway("submit", "rehearsal", "--params", params, "--watch")
    assert done.returncode == status, done.stderr
    assert re.search(rf"^{word}: ", done.stdout, re.MULTILINE)


def test_watching_ends_with_4_when_the_batch_is_cancelled(run: Run) -> None:
    token = run.headway("token", "demo", "--ttl", "5m").stdout.strip()
    submitted = run.headway("submit", "rehearsal", "--params", '{"steps": 600, "stepMs": 100}', "--jobs", "3")
    batch_id, page = submitted.stdout.split()
    with subprocess.Popen(
        [*HEADWAY, "watch", page], env=environment(run.home), stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        assert "0 of 3 done" in watching.stdout.readline()
        address = f"{run.running.address}/api/batches/{batch_id}/cancel"
        answer = httpx.post(address, headers={"Authorization": f"Bearer {token}"}, trust_env=False)
        assert answer.status_code == 202
        assert watching.wait(20) == 4


def test_a_batch_is_controlled_from_the_command_line(run: Run) -> None:
    submitted = run.headway("submit", "rehearsal", "--params", '{"steps": 600, "stepMs": 100}', "--jobs", "2")
    batch_id, _ = submitted.stdout.split()
    done = {action: run.headway(action, batch_id) for action in ("pause", "resume", "delete", "cancel")}
    assert done["pause"].stdout.startswith("paused: ")
    assert done["resume"].returncode == 0
    assert (done["delete"].returncode, "cancel it first" in done["delete"].stderr) == (2, True)
    assert done["cancel"].returncode == 0
    assert run.headway("watch", batch_id).returncode == 4
    assert "no job of the batch has failed" in run.headway("retry", batch_id).stderr
    assert run.headway("delete", batch_id).stdout == "deleted\n"
    assert run.headway("watch", batch_id).returncode == 5


def test_jobs_are_added_from_the_command_line_to_a_batch_with_wishes(run: Run) -> None:
    quick = ("--params", '{"steps": 1, "stepMs": 1}')
    wishes = ("--priority", "-7", "--concurrency", "3", "--open", "--jobs", "2")
    batch_id, page = run.headway("submit", "rehearsal", *quick, *wishes).stdout.split()
    with psycopg.connect(run.running.database_url) as connection:
        query = "SELECT priority, concurrency FROM batches WHERE id = %s"
        assert connection.execute(query, (batch_id,)).fetchone() == (-7, 3)
    for _ in range(2):
        more = run.headway("add", page, *quick, "--jobs", "3", "--key", f"more of {batch_id}")
        assert more.returncode == 0, more.stderr
    assert run.headway("close", batch_id).returncode == 0
    assert "5 of 5" in run.headway("watch", batch_id).stdout
    closed = run.headway("add", batch_id, *quick)
    assert (closed.returncode, closed.stdout) == (2, "")


def test_a_log_and_a_history_are_read_from_the_command_line(run: Run) -> None:
    params = '[{"steps": 3, "stepMs": 1, "logsPerStep": 2}, {"steps": 1, "failAtStep": 1, "stepMs": 1}]'
    batch_id, page = run.headway("submit", "rehearsal", "--params", params).stdout.split()
    assert run.headway("watch", batch_id).returncode == 3

    whole = run.headway("logs", page).stdout.splitlines()
    failed = run.headway("logs", batch_id, "--level", "error", "--grep", "REHEARSED").stdout
    steps = run.headway("timeline", batch_id).stdout.splitlines()

    assert len(whole) > 9
    assert [line for line in whole if " error " in line] == failed.splitlines()
    assert failed.endswith("#1 job 2 (attempt 1): attempt 1 failed: rehearsed failure at step 1\n")
    assert steps[0].endswith(" the batch: waiting (created)")
    assert steps[-1].endswith(" the batch: running → completed in part (jobs)")
    assert any(re.search(r" job 2: running → failed at attempt 1 \(\w+\)$", step) for step in steps)
    wrong = run.headway("logs", batch_id, "--level", "loud")
    assert (wrong.returncode, "'loud' is none of phase" in wrong.stderr) == (2, True)
    assert run.headway("timeline", "00000000-0000-7000-8000-000000000000").returncode == 2


def test_workers_are_seen_and_let_go_from_the_command_line(run: Run) -> None:
    def listed() -> list[list[str]]:
        titles, *rows = run.headway("workers").stdout.splitlines()
        assert titles.split()[:4] == ["id", "queue", "status", "running"]
        return [row.split() for row in rows]

    def one() -> list[str] | None:
        return next((row for row in listed() if row[1:3] == ["default", "working"]), None)

    worker_id = wait_for(one, "a worker of short jobs")[0]
    old = set(run.running.pids["worker"])
    assert {row[1] for row in listed()} == {"default", "photos"}
    done = run.headway("workers", "drain", worker_id)
    assert done.stdout.startswith("draining: process "), done.stderr
    assert int(done.stdout.split()[2]) in old
    wait_for(lambda: (row := one()) and row[0] != worker_id, "another in its place", 60)
    assert len(old & set(run.running.pids["worker"])) == 1
    assert run.headway("workers", "drain", worker_id).returncode == 2


def test_watching_ends_with_5_when_there_is_nothing_to_watch(run: Run) -> None:
    done = run.headway("watch", "00000000-0000-7000-8000-000000000000")
    assert done.returncode == 5
    assert "not yours" in done.stderr


def test_every_part_that_is_killed_comes_back_at_its_place_and_nothing_is_lost(run: Run) -> None:
    params = '{"steps": 40, "stepMs": 100, "logsPerStep": 1}'
    batch_id = run.headway("submit", "rehearsal", "--params", params, "--jobs", "12").stdout.split()[0]
    with subprocess.Popen(
        [*HEADWAY, "watch", batch_id], env=environment(run.home), stdout=subprocess.PIPE, text=True
    ) as watching:
        before = run.running
        for part, pids in before.pids.items():
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

            def renewed(part: str = part, old: tuple[int, ...] = tuple(pids)) -> bool:
                new = run.running.pids[part]
                return len(new) == len(old) and not set(new) & set(old) and all(alive(pid) for pid in new)

            wait_for(renewed, f"{part} to come back")
        after = run.running
        assert (after.address, after.database_url, after.redis_url) == (
            before.address,
            before.database_url,
            before.redis_url,
        )
        assert watching.wait(60) == 0
    assert run.text.count("it is started again") >= 5
    assert run.headway("smoke").returncode == 0


def test_everything_is_kept_alive_also_when_it_cannot_be_written_down(run: Run) -> None:
    in_the_way = run.home / "run.json.new"  # as if there were no space
    in_the_way.mkdir()
    pids = run.running.pids["web"]
    os.kill(pids[0], signal.SIGKILL)
    run.await_line("What runs cannot be written down: ")
    in_the_way.rmdir()
    second = wait_for(lambda: _another_web(run, pids), "the next one to be written down")
    os.kill(second[0], signal.SIGKILL)
    wait_for(lambda: _another_web(run, second), "it to come back once more")
    wait_for(lambda: status(run.running.address, "/health/ready") == 200, "it to answer")


def _another_web(run: Run, old: list[int]) -> list[int] | None:
    new = run.running.pids["web"]
    return new if new and new != old else None


def test_a_second_run_in_the_same_place_is_refused(run: Run) -> None:
    done = headway(run.home, "run", "--no-demo")
    assert done.returncode == 2
    assert f"runs in {run.home} already at {run.running.address}" in done.stderr
    assert all(alive(pid) for pid in run.pids)


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(run: Run, tmp_path: Path) -> None:
    port = urlsplit(run.running.address).port
    done = headway(tmp_path / "other", "run", "--no-demo", HEADWAY_PORT=str(port))
    assert done.returncode == 2
    assert f"Port {port} on 127.0.0.1 cannot be used" in done.stderr


def test_a_wrong_setting_is_said_before_anything_is_started(tmp_path: Path) -> None:
    done = headway(tmp_path / "home", "run", HEADWAY_LEASE="soon")
    assert done.returncode == 2
    assert done.stderr.startswith("headway: HEADWAY_LEASE: ")
    assert not (tmp_path / "home" / "postgres").exists()


def test_the_demonstration_makes_a_real_inventory(run: Run) -> None:
    page = re.search(r"/batches/([0-9a-f-]{36})#", run.text)
    assert page
    assert run.headway("watch", page[1], seconds=100).returncode == 0
    token = run.headway("token", "demo").stdout.strip()
    address = f"{run.running.address}/api/batches/{page[1]}"
    batch = httpx.get(address, headers={"Authorization": f"Bearer {token}"}, trust_env=False).json()
    photos = REPEAT * len(list(PHOTOS.glob("*.jpg")))
    assert batch["counts"]["completed"] == batch["summary"]["photos"] == photos
    if DETECTOR.is_file() or (run.home / "detector.onnx").is_file():
        assert batch["summary"]["byRoom"]["kitchen"]["photos"] == photos / 2
        assert {"refrigerator", "chair", "tv"} <= {item["label"] for item in batch["summary"]["items"]}
        assert batch["summary"]["withoutDetector"] == 0
    else:
        assert batch["summary"]["withoutDetector"] == photos


def test_nothing_is_left_however_it_ends_and_it_starts_again(tmp_path: Path) -> None:
    home, port = tmp_path / "home", str(own_port())
    more = {"HEADWAY_PORT": port, "HEADWAY_DETECTOR": str(DETECTOR)}  # named, so none is built
    with started(home, "--no-demo", **more) as run:
        secret, pids = (home / "secret").read_text(), run.pids
        assert run.running.address == f"http://127.0.0.1:{port}"
        run.process.kill()
        run.process.wait()
        wait_for(lambda: not any(alive(pid) for pid in pids), "the parts of a killed run to end")
        assert (home / "run.json").exists()
        assert "does not run" in headway(home, "smoke").stderr
    with started(home, "--no-demo", **more) as run:
        assert (home / "secret").read_text() == secret
        pids = run.pids
        batch_id = run.headway("submit", "rehearsal", "--params", '{"steps": 600}').stdout.split()[0]
        with subprocess.Popen([*HEADWAY, "watch", batch_id], env=environment(home), stdout=subprocess.PIPE) as watching:
            assert watching.stdout is not None
            watching.stdout.readline()
            assert run.stop(15) == 0
            watching.kill()
        assert not any(alive(pid) for pid in pids)
        assert not (home / "run.json").exists()
        assert not list(home.glob("*.ready"))
