"""Why a batch waits, by the facts; what is left of that beside a later state; and what is worth telling."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.events import Batch, Waiting
from shared.jobs import BatchStatus, Counts
from shared.outlook import Facts, Outlook, Premises, differs, shown, waiting
from shared.settings import Limit

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
AT = "2026-11-21T12:00:00.000Z"
TWO = {"workers": 1, "threads": 2}


def facts(**given: Any) -> Facts:
    """Of a batch of which nothing runs, with a worker of two threads that have nothing to do."""
    return Facts(**{"kind": "mail", "processing": 0, "concurrency": None, "busy": 0} | TWO | given)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


OWNER, KIND, RATE = Premises(owner=3), Premises(kinds={"mail": Limit(4)}), Premises(kinds={"mail": Limit(rate=0.1)})
FAST = Premises(kinds={"mail": Limit(rate=10)})
BUSY = {"busy": 2}

CASES: dict[str, tuple[dict[str, Any], Premises, Waiting | None]] = {
    "it is about to begin": ({}, Premises(), None),
    "it runs": ({"processing": 1, **BUSY}, Premises(), None),
    "it runs, and others come first": ({"processing": 1, "ahead": 9}, Premises(), None),
    "nobody is there": ({"workers": 0, "threads": 0}, Premises(), Waiting("no_worker")),
    "nobody is there for the rest": ({"workers": 0, "processing": 1}, Premises(), Waiting("no_worker")),
    "nobody is there, which is worse than a limit": (
        {"workers": 0, "processing": 1, "concurrency": 1},
        Premises(),
        Waiting("no_worker"),
    ),
    "its own limit": ({"processing": 2, "concurrency": 2}, Premises(), Waiting("limited")),
    "below its own limit": ({"processing": 1, "concurrency": 2}, Premises(), None),
    "its owner's limit": ({"of_owner": 3, "ahead": 9}, OWNER, Waiting("limited")),
    "its owner's limit, where something of it runs": ({"of_owner": 3, "processing": 1}, OWNER, Waiting("limited")),
    "below its owner's limit": ({"of_owner": 2}, OWNER, None),
    "its kind's limit": ({"of_kind": 4}, KIND, Waiting("limited")),
    "another kind's limit": ({"of_kind": 4, "kind": "photos"}, KIND, None),
    "its kind's rate": ({"due": after(8)}, RATE, Waiting("limited", until="2026-11-21T12:00:08.000Z")),
    "its kind's rate, where something of it runs": (
        {"due": after(8), "processing": 1},
        RATE,
        Waiting("limited", until="2026-11-21T12:00:08.000Z"),
    ),
    "its kind's rate, just now": ({"due": after(-0.1)}, RATE, Waiting("limited", until=AT)),
    "its kind's rate, which is not used up": ({"due": after(-1)}, RATE, None),
    "a second's worth of a rate may come at once": ({"due": after(0.3)}, FAST, None),
    "more than a second's worth has come": ({"due": after(0.95)}, FAST, Waiting("limited")),
    "no rate any more": ({"due": after(8)}, Premises(), None),
    "others come first": ({"ahead": 9}, Premises(), Waiting("behind", ahead=9)),
    "it is next, and there is no room": (BUSY, Premises(), Waiting("behind", ahead=0)),
    "it is not its turn, but was a moment ago": ({"ahead": 3, "idle": 1.0, **BUSY}, Premises(), None),
    "it has been standing for long": ({"ahead": 3, "idle": 9.0}, Premises(), Waiting("behind", ahead=3)),
    "when its turn may be": (
        {"ahead": 3, "job_seconds": 10.0},
        Premises(),
        Waiting("behind", ahead=3, until="2026-11-21T12:00:20.000Z"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_reason(name: str) -> None:
    given, premises, expected = CASES[name]
    assert waiting(facts(**given), premises, NOW) == expected


def batch(queued: int = 5, status: BatchStatus = BatchStatus.PROCESSING, **given: Any) -> Batch:
    fields: dict[str, Any] = {"waiting": None, "eta_seconds": None, "cancel_requested": False} | given
    return Batch(
        batch_id="b",
        kind="mail",
        title="",
        owner="anna",
        status=status,
        version=1,
        progress=0,
        counts=Counts(queued=queued, total=9),
        metadata={},
        summary=None,
        created_at=AT,
        started_at=None,
        finished_at=None,
        **fields,
    )


BEHIND, ALONE, LIMITED = Waiting("behind", ahead=2), Waiting("no_worker"), Waiting("limited")
PAUSED, RESTS = Waiting("paused"), Waiting("delayed", until=AT)

BESIDE: list[tuple[str, Waiting | None, Batch, Waiting | None]] = [
    ("nothing was started", ALONE, batch(), ALONE),
    ("nothing was started, and jobs were added", BEHIND, batch(6), BEHIND),
    ("something was started", ALONE, batch(4), None),
    ("its turn came", BEHIND, batch(4), None),
    ("one took another's place", LIMITED, batch(4), LIMITED),
    ("all have been started", LIMITED, batch(0), None),
    ("it was paused", ALONE, batch(waiting=PAUSED), PAUSED),
    ("it goes on", PAUSED, batch(), None),
    ("it no longer rests", RESTS, batch(), None),
    ("it was cancelled", ALONE, batch(cancel_requested=True), None),
    ("it has ended", LIMITED, batch(1, BatchStatus.CANCELLED), None),
    ("it never waited", None, batch(), None),
]


@pytest.mark.parametrize(("what", "before", "state", "expected"), BESIDE, ids=[what for what, *_ in BESIDE])
def test_what_is_left_of_it_beside_a_later_state(
    what: str,
    before: Waiting | None,
    state: Batch,
    expected: Waiting | None,
) -> None:
    assert Outlook(before, queued=5).beside(state).waiting == expected


def test_of_the_same_moment_it_says_everything() -> None:
    outlook = Outlook(None, 10.0, 5.0, 20.0, 5)
    assert shown(outlook.of(batch(waiting=RESTS, eta_seconds=99.0))) == outlook


def test_a_later_state_has_an_estimate_of_its_own() -> None:
    assert Outlook(None, 10.0, 5.0, 20.0, 5).beside(batch(eta_seconds=8.0)).eta_seconds == 8.0
    assert Outlook(None, 10.0, 5.0, 20.0, 5).beside(batch()).eta_seconds is None


def behind(ahead: int, until: str | None = None) -> Outlook:
    return Outlook(Waiting("behind", ahead=ahead, until=until))


def left(seconds: float, low: float | None = None, high: float | None = None) -> Outlook:
    return Outlook(None, seconds, seconds if low is None else low, seconds if high is None else high)


NOTICED = [
    (Outlook(), Outlook(), 0, False),
    (Outlook(), Outlook(ALONE), 0, True),
    (Outlook(ALONE), Outlook(), 0, True),
    (Outlook(ALONE), Outlook(ALONE), 1000, False),
    (Outlook(ALONE), Outlook(LIMITED), 0, True),
    (Outlook(Waiting("delayed", after="a")), Outlook(Waiting("delayed", until=AT)), 0, True),
    (behind(100), behind(95), 0, False),
    (behind(100), behind(85), 0, True),
    (behind(3), behind(2), 0, True),
    (behind(1, "2026-11-21T12:01:40.000Z"), behind(1, "2026-11-21T12:01:45.000Z"), 0, False),
    (behind(1, "2026-11-21T12:01:40.000Z"), behind(1, "2026-11-21T12:02:00.000Z"), 0, True),
    (behind(1, "2026-11-21T11:59:00.000Z"), behind(1, AT), 0, False),
    (behind(1, "2026-11-21T11:59:00.000Z"), behind(1, "2026-11-21T12:00:05.000Z"), 0, True),
    (behind(1), behind(1, AT), 0, True),
    (Outlook(), left(10), 0, True),
    (left(10), Outlook(), 0, True),
    (left(100), left(60), 40, False),
    (left(100), left(100), 40, True),
    (left(100), left(106), 0, False),
    (left(100), left(88), 0, True),
    (left(3), left(4.5), 0, False),
    (left(3), left(0), 60, False),
    (left(100, 90, 110), left(100, 50, 110), 0, True),
    (left(100, 90, 110), left(100, 90, 200), 0, True),
]


@pytest.mark.parametrize(("told", "now", "passed", "noticed"), NOTICED)
def test_what_somebody_would_notice(told: Outlook, now: Outlook, passed: float, noticed: bool) -> None:
    assert differs(told, now, passed, NOW) is noticed
