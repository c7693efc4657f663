"""`track`: items, warnings and percentages of a job that works through many things."""

from collections.abc import Iterator

import pytest

from shared.kit import Tracked, track
from shared.updates import Fatal, Items, JobError, Log, Progress, Retryable, Updates
from tests.support.handlers import driven


def tenth(number: int) -> float:
    if number == 13:
        raise JobError("bad luck", code="luck")
    return 10 / number


def test_one_that_fails_is_a_warning_and_the_work_goes_on() -> None:
    said, tracked = driven(track([1, 0, 13, 2], tenth, name="number {}".format))
    assert tracked == Tracked([10.0, 5.0], Items(2, 2, 4))
    assert said == [
        Progress(0, items=Items(0, 0, 4)),
        Progress(25.0, items=Items(1, 0, 4)),
        Log("number 0: ZeroDivisionError: division by zero", "warn"),
        Progress(50.0, items=Items(1, 1, 4)),
        Log("number 13: JobError: bad luck", "warn"),
        Progress(75.0, items=Items(1, 2, 4)),
        Progress(100.0, items=Items(2, 2, 4)),
    ]


@pytest.mark.parametrize("error", [Fatal("no paper"), Retryable("no ink", after=3)])
def test_what_concerns_the_whole_job_ends_it(error: JobError) -> None:
    def fails(_: int) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        driven(track([1, 2], fails))
    assert caught.value is error


def test_the_work_may_be_a_generator_and_nobody_may_know_how_much_there_is() -> None:
    def pages() -> Iterator[int]:
        yield from (1, 2)

    def read(page: int) -> Updates[str]:
        yield Log(f"page {page}")
        return str(page)

    said, tracked = driven(track(pages(), read))
    assert tracked == Tracked(["1", "2"], Items(2, 0, 0))
    assert said == [
        Progress(0, items=Items(0, 0, 0)),
        Log("page 1"),
        Progress(None, items=Items(1, 0, 0)),
        Log("page 2"),
        Progress(None, items=Items(2, 0, 0)),
    ]
    assert driven(track(pages(), read, total=2))[1].items == Items(2, 0, 2)


def test_a_part_of_a_job_moves_in_its_own_part_of_the_bar() -> None:
    said, _ = driven(track("ab", str.upper, within=(50, 90)))
    assert [update.percent for update in said if isinstance(update, Progress)] == [50, 70.0, 90.0]


def test_nothing_to_do_is_no_failure() -> None:
    assert driven(track([], tenth))[1] == Tracked([], Items(0, 0, 0))
