"""What is kept of how long jobs took: folded one by one, in little room, and told to the next batch of the kind."""

import math
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.pace import History, Pace, dump, load, load_history, remember

_NOW = 1_800_000_000.0


def pace_of(lengths: list[float]) -> Pace:
    pace = Pace(at=_NOW)
    for seconds in lengths:
        pace.complete(seconds)
    return pace


def test_it_knows_how_long_jobs_take_and_how_much_that_varies() -> None:
    random = Random(1)  # noqa: S311  # the same each time
    pace = pace_of([random.lognormvariate(1, 0.5) for _ in range(5000)])
    assert pace.completed == 5000
    assert pace.log1 == pytest.approx(1, abs=0.05)
    assert pace.plain == pytest.approx(1, abs=0.05)
    assert math.sqrt(pace.variance) == pytest.approx(0.5, abs=0.03)
    assert pace.mean == pytest.approx(math.exp(1.125), rel=0.05)
    assert pace.tail == pytest.approx(0.5, abs=0.15)


def test_the_longest_jobs_tell_of_a_heavy_tail() -> None:
    random = Random(2)  # noqa: S311  # the same each time
    pace = pace_of([random.paretovariate(1.5) for _ in range(5000)])
    assert pace.tail > 1.4 * math.sqrt(pace.variance)


def test_later_jobs_count_more_and_none_is_forgotten() -> None:
    pace = pace_of([1.0] * 50 + [2.0] * 50)
    assert 1.7 < pace.mean < 1.8
    assert pace.log1 > pace.plain


def test_time_counts_while_something_may_start() -> None:
    pace = Pace(at=_NOW)
    pace.tick(_NOW + 10, 4, moving=True)
    assert (pace.active, pace.parallel, pace.ages, pace.squares) == (10, pytest.approx(4, rel=0.01), 40, 400)
    pace.tick(_NOW + 100, 4, moving=False)  # the last four run on
    assert (pace.active, pace.parallel, pace.ages) == (10, pytest.approx(4, rel=0.01), 400)
    for _ in range(4):
        pace.complete(100)
    assert (pace.ages, pace.squares) == (0, 0)
    pace.tick(_NOW + 5000, 0, moving=False)  # a pause
    assert (pace.active, pace.parallel) == (10, pytest.approx(4, rel=0.01))
    pace.tick(_NOW + 4000, 0, moving=True)  # a clock that was set back
    assert (pace.active, pace.at) == (10, _NOW + 5000)


def test_ages_are_those_of_the_jobs_under_way() -> None:
    pace = Pace(at=_NOW)
    pace.tick(_NOW + 3, 1, moving=True)
    pace.tick(_NOW + 5, 2, moving=True)  # now 5 and 2 seconds old
    assert (pace.ages, pace.squares) == (7, 29)
    pace.leave(5)
    assert (pace.ages, pace.squares) == (2, 4)
    assert pace.completed == 0


def test_short_jobs_are_averaged_over_seconds() -> None:
    """What is under way in one moment says nothing about jobs of milliseconds."""
    pace, now = Pace(at=_NOW), _NOW
    for turn in range(4000):
        now += 0.005
        pace.tick(now, 6 if turn % 3 == 0 else 0, moving=True)
        if turn % 3 == 0:
            pace.complete(0.005)
    assert pace.parallel == pytest.approx(2, rel=0.1)


def test_jobs_that_fail_teach_no_length() -> None:
    pace = pace_of([4.0] * 10)
    before = pace.mean, pace.log1, pace.variance
    for _ in range(90):
        pace.fail(0.01)
        pace.retry(0.5)
    assert (pace.mean, pace.log1, pace.variance) == before
    assert (pace.failed, pace.retried, pace.retried_seconds) == (90, 90, 45)


times = st.floats(min_value=0, max_value=1e7)


@given(st.lists(st.tuples(st.sampled_from(["complete", "fail", "retry", "leave"]), times, times), max_size=60))
def test_it_stays_short_and_sound_whatever_happens(events: list[tuple[str, float, float]]) -> None:
    pace, now = Pace(at=_NOW, history=History(10**6, 1.23456789, 0.123456789, 2.3456789, 1.3456789)), _NOW
    for name, seconds, passed in events:
        now += passed
        pace.tick(now, 64, moving=True)
        getattr(pace, name)(seconds)
    stored = dump(pace)
    assert len(stored) < 300
    again = load(msgspec.json.decode(stored))
    for name in pace.__struct_fields__:
        value = getattr(again, name)
        if isinstance(value, float):
            assert math.isfinite(value)
            assert value == pytest.approx(getattr(pace, name), rel=1e-5)
    assert pace.variance >= 0
    assert pace.tail >= 0


@pytest.mark.parametrize("stored", [None, {}, "7", [1, "x"], {"at": 1}])
def test_what_cannot_be_read_counts_as_nothing(stored: object) -> None:
    assert load(stored) == Pace()
    assert load_history(stored) is None


def test_a_kind_remembers_its_batches() -> None:
    history = None
    random = Random(3)  # noqa: S311  # the same each time
    for size in (1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0):
        history = remember(history, pace_of([size * random.lognormvariate(0, 0.5) for _ in range(300)]))
    assert history is not None
    assert history.batches == 8
    assert math.exp(history.level) == pytest.approx(math.sqrt(2) * math.exp(0.125), rel=0.15)
    assert history.between == pytest.approx((math.log(2) / 2) ** 2, rel=0.4)
    assert math.sqrt(history.within) == pytest.approx(0.5, rel=0.2)
    assert load_history(msgspec.json.decode(dump(history))) == history


def test_a_batch_of_two_jobs_teaches_its_kind_nothing() -> None:
    assert remember(None, pace_of([1.0, 1.0])) is None
    history = remember(None, pace_of([1.0, 1.0, 1.0]))
    assert history is not None
    assert remember(history, pace_of([9.0])) == history
