"""The tracker of clients/python while Headway is away, slow, wrong or refuses: the work goes on, and little is lost."""

import gc
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from clients.python import headway_tracker
from clients.python.headway_tracker import Tracker, create_batch
from tests.support.batches import wait_for
from tests.support.ports import own_port
from tests.support.reporting import BATCH, FAULTS, JOB, Fault, Listening, Refusal, Request, listening

TOKEN = "a-token-that-nobody-is-to-read"  # noqa: S105  # it opens nothing


@pytest.fixture
def headway() -> Iterator[Listening]:
    with listening() as told:
        yield told


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short, and nobody goes on for long after the test."""
    monkeypatch.setattr(headway_tracker, "_INTERVAL", 0.02)
    monkeypatch.setattr(headway_tracker, "_BACKOFF", (0.02, 0.1))
    monkeypatch.setattr(headway_tracker, "_LINGER", 20.0)


def is_report(request: Request) -> bool:
    return request.path.endswith("/report")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_said_arrives_once_and_in_order_whatever_goes_wrong(fault: Fault, headway: Listening) -> None:
    numbers = count()
    headway.choose = lambda _request: fault if next(numbers) % 3 else None
    with Tracker(headway.url, TOKEN, title="Import") as t:
        for number in range(50):
            t.log(f"line {number}")
            if number % 10 == 0:
                t.step(f"step {number}")
        t.result = {"rows": 50}
    assert t.close(30)
    assert headway.texts() == [f"line {number}" for number in range(50)]
    assert [report["name"] for report in headway.reports if "name" in report] == [f"step {n}" for n in range(0, 50, 10)]
    assert headway.types()[0] == "start"
    assert headway.reports[-1] | {"sequence": 0} == {
        "type": "complete",
        "result": {"rows": 50},
        "sequence": 0,
        "run": headway.reports[0]["run"],
    }
    assert [report["sequence"] for report in headway.reports] == list(range(1, len(headway.reports) + 1))
    creations = [request for request in headway.requests if request.path == "/api/batches"]
    assert len({request.headers["idempotency-key"] for request in creations}) == 1
    assert not [request for request in headway.requests if request.path == "/elsewhere"]


def test_it_may_come_later_than_the_work_began(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headway")
    port = own_port()
    t = Tracker(f"http://127.0.0.1:{port}", TOKEN)
    t.start()
    for number in t.track(range(100)):
        t.log(f"line {number}")
    assert not t.close()
    t.complete()
    with listening(port) as headway:
        assert t.close(30)
        assert headway.texts() == [f"line {number}" for number in range(100)]
        assert headway.types()[-1] == "complete"
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if "away" in text][1:] == []
    assert said[-1] == "Headway is back"


def test_the_work_does_not_wait_for_a_headway_that_hangs(
    headway: Listening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(headway_tracker, "_CLOSE", 0.2)
    headway.choose = lambda _request: "hang"
    with Tracker(headway.url, TOKEN, title="Import") as t:
        assert headway.hanging.wait(20)
        for number in t.track(range(10_000)):
            with t.item(number):
                t.log(number)
    assert len(headway.requests) == 1, "the block was left before the first request was answered"
    assert headway.reports == []
    headway.choose = lambda _request: None
    headway.going.set()
    assert t.close(30)
    assert headway.types()[-1] == "complete"
    assert len(headway.texts()) == 10_000
    assert TOKEN not in caplog.text


def test_an_answer_that_does_not_come_is_asked_for_again(headway: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headway_tracker, "_TIMEOUT", 0.3)
    requests = count()
    headway.choose = lambda _request: "hang" if next(requests) == 0 else None
    tracker = headway_tracker.Tracker(headway.url, TOKEN, job=JOB)
    monkeypatch.setattr(tracker._headway, "_timeout", 0.3)
    with tracker as t:
        t.log("a line")
        wait_for(headway.texts, "the line")
    assert t.close(30)


@pytest.mark.parametrize(
    "refusal", [Refusal(401, "unauthenticated"), Refusal(403, "forbidden"), Refusal(404), Refusal(409, "conflict")]
)
def test_a_refusal_is_told_once_and_ends_the_telling_but_not_the_work(
    refusal: Refusal, headway: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    headway.choose = lambda request: refusal if is_report(request) else None
    done = []
    with Tracker(headway.url, TOKEN, job=JOB) as t:
        wait_for(lambda: not [sender for sender in headway_tracker._open if sender._tracker is t], "the refusal")
        for number in t.track(range(1000)):
            t.log("a line")
            done.append(number)
    assert done == list(range(1000))
    assert not t.close(10)
    assert headway.reports == []
    assert len([request for request in headway.requests if is_report(request)]) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]  # refused, and how many are lost
    assert TOKEN not in caplog.text


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_who_creates_a_batch_does_not_wait_for_an_answer_that_does_not_end(fault: Fault, headway: Listening) -> None:
    headway.choose = lambda _request: fault
    assert create_batch("Import", ["a"], url=headway.url, token=TOKEN, timeout=0.3) == headway_tracker.Batch()
    assert headway.hanging.is_set()


@pytest.mark.parametrize("fault", ["cut after", "foreign"])
def test_a_creation_is_repeated_as_it_was(fault: Fault, headway: Listening) -> None:
    headway.choose = lambda _request: fault
    given: dict[str, Any] = {"rows": [1]}
    t = Tracker(headway.url, TOKEN, title="Import", data=given, metadata=given)
    t.start()
    wait_for(lambda: headway.requests, "the creation")
    given["rows"].append(2)
    headway.choose = lambda _request: None
    t.complete()
    assert t.close(30)
    creations = [request.body for request in headway.requests if request.path == "/api/batches"]
    assert len(creations) > 1
    assert [body for body in creations if body != creations[0]] == [], "under the same key it would be a conflict"


def test_a_token_that_may_only_report_does(headway: Listening) -> None:
    headway.choose = lambda request: None if is_report(request) else Refusal(403, "forbidden")
    with Tracker(headway.url, TOKEN, job=JOB) as t:
        t.log("a line")
    assert t.close(30)
    assert (headway.types(), headway.texts()) == (["start", "log", "complete"], ["a line"])


def test_a_report_that_is_refused_does_not_take_others_along(
    headway: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    def choose(request: Request) -> Refusal | None:
        wrong = is_report(request) and any(report.get("text") == "bad" for report in request.body["reports"])
        return Refusal(422) if wrong else None

    headway.choose = choose
    with Tracker(headway.url, TOKEN, job=JOB) as t:
        for number in range(100):
            t.log("bad" if number == 41 else f"line {number}")
    assert t.close(30)
    assert headway.texts() == [f"line {number}" for number in range(100) if number != 41]
    assert headway.types()[-1] == "complete"
    assert "left out" in caplog.text


def test_an_end_is_told_without_details_where_those_are_refused(headway: Listening) -> None:
    def choose(request: Request) -> Refusal | None:
        return Refusal(413) if is_report(request) and request.body["reports"][-1].get("result") else None

    headway.choose = choose
    with Tracker(headway.url, TOKEN, job=JOB) as t:
        t.result = {"rows": 50}
    assert t.close(30)
    assert headway.types() == ["start", "complete"]


def test_a_report_token_that_has_run_out_is_replaced_by_the_users(headway: Listening) -> None:
    def choose(request: Request) -> Refusal | None:
        old = request.headers["authorization"] == "Bearer a-report-token"
        return Refusal(401) if old and "after a week" in headway.texts() else None

    headway.choose = choose
    with Tracker(headway.url, TOKEN) as t:
        t.log("after a week")
        wait_for(headway.texts, "the line")
        t.log("and on")
    assert t.close(30)
    assert headway.texts() == ["after a week", "and on"]
    assert headway.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"


def test_when_there_is_too_much_the_oldest_lines_go_and_are_counted(
    headway: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headway_tracker, "_LINES", 100)
    monkeypatch.setattr(headway_tracker, "_CLOSE", 0.1)
    headway.choose = lambda _request: "hang"
    with Tracker(headway.url, TOKEN) as t:
        assert headway.hanging.wait(20)
        for number in range(1000):
            t.log(f"line {number}")
    headway.choose = lambda _request: None
    headway.going.set()
    assert t.close(30)
    first, *others = headway.texts()
    assert first.startswith("901 lines are missing here")  # the start takes the place of one
    assert others == [f"line {number}" for number in range(901, 1000)]
    assert headway.types()[0] == "start"


def test_a_request_has_at_most_a_thousand_reports_and_a_megabyte(headway: Listening) -> None:
    with Tracker(headway.url, TOKEN) as t:
        for _ in range(2500):
            t.log("short")
        for _ in range(200):
            t.log("\N{SNOWMAN}" * 20_000)
    assert t.close(30)
    sent = [request for request in headway.requests if is_report(request)]
    assert max(len(request.body["reports"]) for request in sent) <= 1000
    assert max(int(request.headers["content-length"]) for request in sent) <= 1_000_000
    assert len(headway.texts()) == 2700
    assert max(len(text.encode()) for text in headway.texts()) <= 8192


def test_silence_is_broken_by_a_sign_of_life_which_also_hears_of_a_cancel(
    headway: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headway_tracker, "_HEARTBEAT", 0.1)
    with Tracker(headway.url, TOKEN, job=JOB) as t:
        assert not t.cancelled
        wait_for(lambda: headway.types()[:3] == ["start", "progress", "progress"], "signs of life")
        headway.answer = {"cancelRequested": True, "paused": True}
        wait_for(lambda: t.cancelled and t.paused, "the cancel")
    assert t.close(30)
    assert headway.types()[-1] == "cancelled"


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "ftp://127.0.0.1",
        "http://",
        "http://[",
        "http://127.0.0.1:99999",
        "file:///etc/passwd",
        "http://a b",
    ],
)
def test_a_url_that_is_none_is_said_once_and_nothing_else_happens(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with Tracker(url, TOKEN) as t:
        assert not t.enabled
        assert list(t.track([1, 2])) == [1, 2]
    (record,) = caplog.records
    assert record.name == "headway"
    assert url not in caplog.text
    assert create_batch("Import", ["a"], url=url, token=TOKEN).job(0) == ""


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_a_url_where_nobody_is_costs_nothing_but_progress(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(headway_tracker, "_LINGER", 0.0)
    with Tracker(url, TOKEN) as t:
        assert list(t.track(range(10))) == list(range(10))
    assert t.enabled
    assert not t.close(20)
    assert t.job_id == ""
    assert TOKEN not in caplog.text


def test_with_an_empty_url_or_token_or_job_there_is_nobody_to_tell(
    headway: Listening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("HEADWAY_URL", "HEADWAY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for t in (Tracker(), Tracker(headway.url), Tracker("", TOKEN), Tracker(headway.url, TOKEN, job="")):
        with t:
            assert [x for x in t.track("abc") if not t.cancelled] == ["a", "b", "c"]
            with t.item("d"):
                raise ValueError("no matter")
            t.log("x")
        assert not t.enabled
        assert t.close()
    assert headway.requests == []
    assert caplog.text.count("an item failed: d: ValueError: no matter") == 4


def test_the_environment_says_where_headway_is(headway: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_URL", f"{headway.url}/")
    monkeypatch.setenv("HEADWAY_TOKEN", TOKEN)
    with Tracker(job=JOB) as t:
        pass
    assert t.close(30)
    assert headway.types() == ["start", "complete"]
    assert t.batch_id == BATCH


class Hostile:
    """Nothing can be done with it."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __len__ = __int__ = __float__ = __iter__ = __str__  # type: ignore[assignment]


@pytest.mark.parametrize(
    "wrong", [Hostile(), object(), float("nan"), "\0\ud800", b"\xff", None, -1, 2**70, [[]], {1: 2}]
)
def test_whatever_is_said_no_method_raises_and_what_comes_after_arrives(wrong: Any, headway: Listening) -> None:
    with Tracker(headway.url, TOKEN, job=JOB) as t:
        t.log(wrong)
        t.log("x", wrong)
        t.warn(wrong)
        t.step(wrong, wrong)
        t.progress(wrong, wrong, failed=wrong, percent=wrong, message=wrong)
        t.metadata(a=wrong, b={"c": [wrong]}, d={"e": 1})
        with t.item(wrong):
            raise ValueError(wrong)
        t.result = {"it": wrong}
        assert t.each([1], lambda _: 1 / 0, wrong) == 1
        t.log("the last word")
        t.progress()
        t.log()  # type: ignore[call-arg]  # that is the mistake
    t.fail(wrong, code=wrong, retry=wrong)
    t.complete(wrong)
    t.close(wrong)
    assert t.close(30)
    assert "the last word" in headway.texts()
    assert headway.types()[-1] == "complete"


def test_wrong_types_are_a_mistake_that_is_shown_at_once(headway: Listening) -> None:
    for arguments in ({"url": 1}, {"title": 5}, {"job": 5}, {"silence": "long"}, {"metadata": [1]}, {"data": 1}):
        with pytest.raises(TypeError):
            Tracker(**{"url": headway.url, "token": TOKEN} | arguments)
    with pytest.raises(ValueError, match="seconds"):
        Tracker(headway.url, TOKEN, silence=0)


def test_an_exception_leaves_the_block_as_it_came(headway: Listening) -> None:
    error = ValueError("no such file")
    with pytest.raises(ValueError, match="no such file") as raised, Tracker(headway.url, TOKEN, job=JOB) as t:
        raise error
    assert raised.value is error
    assert t.close(30)
    last = headway.reports[-1]
    assert (last["type"], last["message"], last["code"]) == ("fail", "ValueError: no such file", "value_error")
    assert last["retry"] is False


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyboardInterrupt(), {"type": "fail", "code": "interrupted", "retry": True}),
        (SystemExit(3), {"type": "fail", "code": "system_exit", "retry": True}),
        (SystemExit(0), {"type": "complete"}),
        (headway_tracker.Cancelled(), {"type": "cancelled"}),
    ],
)
def test_other_ways_out_of_the_block(error: BaseException, expected: dict[str, Any], headway: Listening) -> None:
    with pytest.raises(type(error)), Tracker(headway.url, TOKEN, job=JOB, retry=lambda _: True) as t:
        raise error
    assert t.close(30)
    assert headway.reports[-1].items() >= expected.items()


def test_many_threads_may_speak_at_once(headway: Listening) -> None:
    def work(number: int) -> None:
        with t.item(number):
            t.log(f"line {number}")
            t.metadata(last=number)
            if number % 4 == 0:
                raise ValueError(number)

    with Tracker(headway.url, TOKEN, job=JOB) as t, ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))
    assert t.close(30)
    assert sorted(text for text in headway.texts() if text.startswith("line")) == sorted(
        f"line {n}" for n in range(400)
    )
    counted = [report for report in headway.reports if "done" in report][-1]
    assert (counted["done"], counted["failed"]) == (300, 100)


def test_a_loop_knows_done_and_failed_items_and_an_inner_one_counts_nothing(headway: Listening) -> None:
    with Tracker(headway.url, TOKEN, job=JOB) as t:
        for number in t.track(range(20)):
            with t.item(number):
                for _ in t.track("abc"):
                    pass
                if number < 5:
                    raise ValueError
        t.progress(message="done with the first")
        wait_for(lambda: any(report.get("failed") == 5 for report in headway.reports), "the count")
        for _ in t.track(iter("abc"), total=3):
            pass
    assert t.close(30)
    counts = [(r["done"], r["failed"], r["total"]) for r in headway.reports if "done" in r]
    assert (15, 5, 20) in counts
    assert counts[-1] == (3, 0, 3)
    assert len([report for report in headway.reports if report["type"] == "warning"]) == 5


def test_a_source_of_unknown_length_is_counted_without_a_total(headway: Listening) -> None:
    with Tracker(headway.url, TOKEN, job=JOB) as t:
        assert sum(t.track(number for number in range(10))) == 45
    assert t.close(30)
    last = [report for report in headway.reports if "done" in report][-1]
    assert (last["done"], last["total"]) == (10, 0)


def test_a_loop_that_is_left_early_gives_way_to_the_next(headway: Listening) -> None:
    with Tracker(headway.url, TOKEN, job=JOB) as t:
        for number in t.track(range(10)):
            if number == 3:
                break
        gc.collect()
        for _ in t.track(range(7)):
            pass
    assert t.close(30)
    assert [report for report in headway.reports if "done" in report][-1]["done"] == 7


def test_few_of_many_trackers_go_on_when_headway_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(headway_tracker, "_LINGERING", 2)
    monkeypatch.setattr(headway_tracker, "_LINGER", 1.0)
    trackers = [Tracker("http://127.0.0.1:1", TOKEN) for _ in range(10)]
    for t in trackers:
        with t:
            t.log("x")
    ours = {t._sender for t in trackers}
    wait_for(lambda: len(ours & headway_tracker._open) <= 2, "all but two to give up")
    wait_for(lambda: not ours & headway_tracker._open, "the others, later")
