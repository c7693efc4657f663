"""The tracker of clients/python, with the real api: what other people's programs tell is what their users see."""

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from msgspec import structs

from clients.python import headway_tracker
from clients.python.headway_tracker import Batch, Cancelled, Tracker, create_batch
from services.api.app import create_app
from shared.settings import Settings
from tests.support.batches import assert_consistent, job_rows, wait_for
from tests.support.ports import own_port
from tests.support.processes import service, worker
from tests.support.web import decoded, served

CLIENT = Path(headway_tracker.__file__)


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headway_tracker, "_INTERVAL", 0.02)
    monkeypatch.setattr(headway_tracker, "_BACKOFF", (0.02, 0.1))
    monkeypatch.setattr(headway_tracker, "_LINGER", 20.0)


@pytest.fixture
def batch(address: str, token: str) -> Batch:
    """Of two jobs, created elsewhere."""
    return create_batch("Import", ["a.csv", "b.csv"], url=address, token=token, data=[{"row": 1}], metadata={"by": "x"})


def job(anna: httpx.Client, job_id: str) -> dict[str, Any]:
    return decoded(anna.get(f"/api/jobs/{job_id}"))


def lines(anna: httpx.Client, batch_id: str) -> list[tuple[str, str]]:
    items = decoded(anna.get(f"/api/batches/{batch_id}/logs?limit=1000"))["items"]
    return [(line["level"], line["text"]) for line in items]


def test_what_a_script_does_is_a_batch_of_one_job(
    address: str, token: str, anna: httpx.Client, engine: sa.Engine
) -> None:
    done = []
    with Tracker(address, token, title="Nightly import", data={"from": "ftp"}, metadata={"team": "shop"}) as t:
        t.step("read")
        t.metadata(source="a.csv", size=12)
        for number in t.track(range(10)):
            with t.item(f"row {number}"):
                if number == 4:
                    raise ValueError("no price")
                done.append(number)
        t.log("all read", "success")
        t.metadata(size=13)
        t.result = {"rows": len(done)}
    assert t.close(30)
    assert done == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    shown = decoded(anna.get(f"/api/batches/{t.batch_id}"))
    assert (shown["title"], shown["status"], shown["kind"]) == ("Nightly import", "PARTIAL", "external")
    assert shown["metadata"] == {"team": "shop"}
    told = job(anna, t.job_id)
    assert told["status"] == "COMPLETED"
    assert told["result"] == {"rows": 9}
    assert told["items"] == {"done": 9, "failed": 1, "total": 10}
    assert told["metadata"] == {"source": "a.csv", "size": 13}
    assert told["params"]["data"] == {"from": "ftp"}
    said = lines(anna, t.batch_id)
    assert [line for line in said if line[1] in {"read", "row 4: ValueError: no price", "all read"}] == [
        ("phase", "read"),
        ("warn", "row 4: ValueError: no price"),
        ("success", "all read"),
    ]
    assert t.web_url.startswith(address)
    assert_consistent(engine, UUID(t.batch_id))


def test_tasks_elsewhere_report_the_jobs_of_a_batch_with_its_token(
    address: str, batch: Batch, anna: httpx.Client
) -> None:
    for number in range(2):
        with Tracker(address, batch.report_token, job=batch.job(number)) as t:
            t.log(f"task {number}")
        assert t.close(30)
        assert t.batch_id == batch.batch_id
    assert decoded(anna.get(f"/api/batches/{batch.batch_id}"))["status"] == "COMPLETED"
    assert job(anna, batch.job(0))["params"]["data"] == {"row": 1}
    assert {text for _, text in lines(anna, batch.batch_id)} >= {"task 0", "task 1"}


def test_a_failure_may_be_followed_by_another_attempt(address: str, batch: Batch, anna: httpx.Client) -> None:
    given = {"url": address, "token": batch.report_token, "job": batch.job(0)}
    with pytest.raises(ConnectionError), Tracker(**given, retry=lambda error: isinstance(error, OSError)) as t:
        raise ConnectionError("the shop is closed")
    assert t.close(30)
    told = job(anna, batch.job(0))
    assert (told["status"], told["error"]["code"]) == ("QUEUED", "connection_error")
    assert told["error"]["message"] == "ConnectionError: the shop is closed"
    with Tracker(**given) as t:
        pass
    assert t.close(30)
    told = job(anna, batch.job(0))
    assert (told["status"], told["attempt"]) == ("COMPLETED", 2)
    with pytest.raises(ValueError, match="too long"), Tracker(**given | {"job": batch.job(1)}) as t:
        raise ValueError("too long")
    assert t.close(30)
    assert job(anna, batch.job(1))["status"] == "FAILED"


def test_a_cancel_is_heard_and_the_work_decides(address: str, batch: Batch, anna: httpx.Client) -> None:
    with Tracker(address, batch.report_token, job=batch.job(0)) as t:
        wait_for(lambda: job(anna, batch.job(0))["status"] == "PROCESSING", "the start")
        anna.post(f"/api/batches/{batch.batch_id}/cancel").raise_for_status()

        def heard() -> bool:
            t.log("still at it")
            return t.cancelled

        wait_for(heard, "the cancel")
    assert t.close(30)
    assert job(anna, batch.job(0))["status"] == "CANCELLED"
    # the other one was cancelled before anybody began it
    with Tracker(address, batch.report_token, job=batch.job(1)) as t:
        wait_for(lambda: t.cancelled, "the refusal")
        with pytest.raises(Cancelled):
            t.check()
    assert job(anna, batch.job(1))["status"] == "CANCELLED"


def test_work_that_has_seen_a_cancel_may_complete_all_the_same(address: str, batch: Batch, anna: httpx.Client) -> None:
    with Tracker(address, batch.report_token, job=batch.job(0)) as t:
        wait_for(lambda: job(anna, batch.job(0))["status"] == "PROCESSING", "the start")
        anna.post(f"/api/jobs/{batch.job(0)}/cancel").raise_for_status()
        t.log("once more")
        wait_for(lambda: t.cancelled, "the cancel", 30)
        t.complete("it was done by then")
    assert t.close(30)
    assert job(anna, batch.job(0))["result"] == "it was done by then"


def test_one_job_has_one_run_until_somebody_takes_over(address: str, batch: Batch, anna: httpx.Client) -> None:
    given = {"url": address, "token": batch.report_token, "job": batch.job(0)}
    first = Tracker(**given)
    first.start()
    wait_for(lambda: job(anna, batch.job(0))["status"] == "PROCESSING", "the start")
    second = Tracker(**given)
    second.log("from the second")
    assert not second.close(30)
    third = Tracker(**given, take_over=True)
    third.log("from the third")
    third.complete()
    assert third.close(30)
    first.log("from the first")
    assert not first.close(30)
    told = job(anna, batch.job(0))
    assert (told["status"], told["attempt"]) == ("COMPLETED", 2)
    assert {text for _, text in lines(anna, batch.batch_id)} & {f"from the {n}" for n in ("first", "second")} == set()


def test_ten_thousand_items_in_a_tight_loop_are_counted_exactly(address: str, token: str, anna: httpx.Client) -> None:
    with Tracker(address, token) as t:
        assert sum(t.track(range(10_000))) == 49_995_000
        for number in range(3_000):
            t.log(f"line {number}")
    assert t.close(60)
    assert job(anna, t.job_id)["items"] == {"done": 10_000, "failed": 0, "total": 10_000}
    page = decoded(anna.get(f"/api/batches/{t.batch_id}/logs?limit=1000"))
    texts = [line["text"] for line in page["items"]]
    while page["nextCursor"]:
        page = decoded(anna.get(f"/api/batches/{t.batch_id}/logs?limit=1000&cursor={page['nextCursor']}"))
        texts += [line["text"] for line in page["items"]]
    assert [text for text in texts if text.startswith("line ")] == [f"line {number}" for number in range(3_000)]


def test_values_that_are_hard_to_keep_arrive_in_some_form(address: str, token: str, anna: httpx.Client) -> None:
    with Tracker(address, token) as t:
        t.log("a NUL \0, half a character \ud800, and a lot " + 10_000 * "ü")
        t.metadata(path=Path("a"), half="\ud800", nul="\0", inf=float("inf"))
        t.step("s" * 1000)
        t.result = {"big": "x" * 300_000}
    assert t.close(30)
    told = job(anna, t.job_id)
    assert (told["status"], told["result"]) == ("COMPLETED", None)
    assert told["metadata"] == {"path": "a", "half": "?", "nul": "\N{REPLACEMENT CHARACTER}", "inf": None}
    assert any(text.startswith("the result is left out") for _, text in lines(anna, t.batch_id))


def test_the_api_may_be_away_for_a_while_in_the_middle(
    settings: Settings, token: str, engine: sa.Engine, tmp_path: Path
) -> None:
    settings = structs.replace(settings, port=own_port())
    address = f"http://127.0.0.1:{settings.port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/health/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    with service("services.api", settings=settings) as process:
        wait_for(answers, "the api")
        t = Tracker(address, token, title="Import")
        for number in range(100):
            t.log(f"line {number}")
        wait_for(lambda: t.job_id, "the batch")
        process.kill()
        process.wait(10)
        for number in range(100, 200):
            t.log(f"line {number}")
        t.progress(200, 200)
        t.complete({"lines": 200})
    with service("services.api", settings=settings):
        assert t.close(60)
    (row,) = job_rows(engine, t.batch_id)
    assert (row.status, row.result, row.items_done) == ("COMPLETED", {"lines": 200}, 200)
    with engine.connect() as connection:
        texts = connection.execute(sa.text("SELECT text FROM log_lines WHERE text LIKE 'line %' ORDER BY n")).scalars()
        assert list(texts) == [f"line {number}" for number in range(200)]


# -- programs ----------------------------------------------------------------------------------------------------------


def program(text: str, address: str, token: str, *arguments: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"HEADWAY_URL": address, "HEADWAY_TOKEN": token, "PYTHONPATH": str(CLIENT.parent)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(text: str, address: str, token: str, *arguments: str) -> tuple[str, str]:
    """What it printed, and what it complained of."""
    process = program(text, address, token, *arguments)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output, errors


_PREFORK = """
import os, sys
from headway_tracker import Tracker
t = Tracker(job=sys.argv[1])  # by the parent, as a module of tasks is imported by it
child = os.fork()
if child == 0:
    with t:
        for x in t.track(range(5)):
            t.log(f"from the child: {x}")
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_tracker_that_was_made_before_a_fork_works_after_it(address: str, batch: Batch, anna: httpx.Client) -> None:
    assert run(_PREFORK, address, batch.report_token, batch.job(0)) == ("", "")
    told = job(anna, batch.job(0))
    assert (told["status"], told["items"]["done"]) == ("COMPLETED", 5)


_FORKED_AT_THE_BEGINNING = """
import os, sys, threading
from headway_tracker import Tracker
t = Tracker(job=sys.argv[1])
held, over = threading.Event(), threading.Event()

def begin():
    with t._lock:  # another thread is about to say the first thing
        held.set()
        over.wait(30)

threading.Thread(target=begin).start()
held.wait(30)
child = os.fork()
if child == 0:
    with t:
        t.log("from the child")
    os._exit(0)
over.set()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_while_another_thread_begins_leaves_no_lock_behind(
    address: str, batch: Batch, anna: httpx.Client
) -> None:
    assert run(_FORKED_AT_THE_BEGINNING, address, batch.report_token, batch.job(0)) == ("", "")
    assert job(anna, batch.job(0))["status"] == "COMPLETED"


_FORKED_WITHIN = """
import os, sys
from headway_tracker import Tracker
with Tracker(job=sys.argv[1]) as t:
    t.log("from the parent")
    child = os.fork()
    if child == 0:
        t.log("from the child")
        list(t.track("abc"))
        sys.exit(3)  # it leaves the block, too
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    t.log("from the parent again")
"""


def test_a_process_that_is_forked_off_within_the_work_does_not_meddle(
    address: str, batch: Batch, anna: httpx.Client
) -> None:
    _, errors = run(_FORKED_WITHIN, address, batch.report_token, batch.job(0))
    assert errors.count("another process") == 1
    assert job(anna, batch.job(0))["status"] == "COMPLETED"
    texts = [text for _, text in lines(anna, batch.batch_id)]
    assert [text for text in texts if text.startswith("from")] == ["from the parent", "from the parent again"]


_DAEMON = """
import os, sys
from headway_tracker import Tracker
t = Tracker(job=sys.argv[1])
t.log("before")
t.close()
child = os.fork()
if child == 0:
    t.start(take_over=True)
    t.log("after")
    t.complete()
    t.close(30)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_is_forked_off_may_take_over(address: str, batch: Batch, anna: httpx.Client) -> None:
    run(_DAEMON, address, batch.report_token, batch.job(0))
    told = job(anna, batch.job(0))
    assert (told["status"], told["attempt"]) == ("COMPLETED", 2)


_POOL = """
import multiprocessing, sys
from headway_tracker import Tracker

def work(job):
    with Tracker(job=job) as t:
        for x in t.track(range(100)):
            pass
    return t.close(30)

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, sys.argv[1:]) == [True] * (len(sys.argv) - 1)
"""


def test_processes_of_a_pool_report_a_job_each(address: str, token: str, anna: httpx.Client) -> None:
    batch = create_batch("Import", [f"{n}.csv" for n in range(8)], url=address, token=token)
    run(_POOL, address, batch.report_token, *batch.jobs)
    assert decoded(anna.get(f"/api/batches/{batch.batch_id}"))["counts"]["completed"] == 8


_UNCLOSED = """
from headway_tracker import Tracker
t = Tracker(title="Unclosed")
t.log("a line")
t.complete(7)
"""


def test_the_end_of_the_program_waits_for_what_is_to_be_sent(address: str, token: str, anna: httpx.Client) -> None:
    assert run(_UNCLOSED, address, token) == ("", "")
    (batch,) = decoded(anna.get("/api/batches?q=Unclosed"))["items"]
    assert batch["status"] == "COMPLETED"


def test_without_headway_a_program_prints_nothing_and_ends(token: str) -> None:
    text = "from headway_tracker import Tracker\nwith Tracker() as t:\n    print(sum(t.track(range(5))))"
    assert run(text, "", token) == ("10\n", "")


_KILLED = """
import sys, time
from headway_tracker import Tracker
with Tracker(title="Killed", silence=1) as t:
    t.progress(percent=40)
    print(flush=True)
    time.sleep(60)
"""


def test_a_killed_program_is_found_by_its_silence(
    address: str, token: str, anna: httpx.Client, settings: Settings, tmp_path: Path
) -> None:
    process = program(_KILLED, address, token)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"

        def running() -> bool:
            items = decoded(anna.get("/api/batches?q=Killed"))["items"]
            return bool(items) and items[0]["status"] == "PROCESSING" and items[0]["progress"] == 40

        wait_for(running, "its progress")
        process.send_signal(signal.SIGKILL)
    with worker(settings, tmp_path):
        (batch,) = decoded(anna.get("/api/batches?q=Killed"))["items"]
        (first,) = decoded(anna.get(f"/api/batches/{batch['batchId']}/jobs"))["items"]
        wait_for(lambda: job(anna, first["id"])["status"] == "QUEUED", "the end of the attempt", 40)
        assert job(anna, first["id"])["error"]["code"] == "silent"


def test_a_program_that_was_taken_for_dead_goes_on_in_another_attempt(
    address: str, token: str, anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    t = Tracker(address, token, silence=1)
    t._begun()
    assert t._sender is not None
    t._sender._heartbeat = 3600
    t.log("before")
    t.metadata(a=1)
    t.progress(5, 10)
    with worker(settings, tmp_path):
        wait_for(lambda: t.job_id and job(anna, t.job_id)["error"], "the end of the first attempt", 40)
    t.log("after")
    t.complete("alive")
    assert t.close(30)
    told = job(anna, t.job_id)
    assert (told["status"], told["attempt"], told["result"]) == ("COMPLETED", 2, "alive")
    assert told["metadata"] == {"a": 1}
    assert told["items"] == {"done": 5, "failed": 0, "total": 10}
    assert [text for _, text in lines(anna, t.batch_id) if text in {"before", "after"}] == ["before", "after"]
    assert_consistent(engine, UUID(t.batch_id))


# -- what is promised of the file --------------------------------------------------------------------------------------


def test_it_is_one_file_of_python_3_9_with_the_standard_library_alone() -> None:
    tree = ast.parse(CLIENT.read_text(), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names | {"typing_extensions"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Match)]


def test_the_examples_of_its_readme_work_as_printed(address: str, token: str, anna: httpx.Client) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (CLIENT.parent / "README.md").read_text(), re.DOTALL)
    for block in blocks:
        ast.parse(block, feature_version=(3, 9))
    assert run(blocks[0], address, token)[1] == ""
    (batch,) = decoded(anna.get("/api/batches"))["items"]
    assert (batch["title"], batch["status"]) == ("Nightly import", "COMPLETED")
