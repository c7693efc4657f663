"""`track`: a job that works through many things, some of which may fail."""

from collections.abc import Callable, Generator, Iterable, Sized
from typing import Any, Generic, TypeVar

from msgspec import Struct

from shared.updates import Fatal, Items, Log, Progress, Retryable, Updates

Thing = TypeVar("Thing")
Made = TypeVar("Made")


class Tracked(Struct, Generic[Made], frozen=True):
    """What came of it: what each thing that did not fail gave, in order, and how many did and did not."""

    made: list[Made]
    items: Items


def track(
    things: Iterable[Thing],
    work: Callable[[Thing], Updates[Made] | Made],
    *,
    total: int | None = None,
    name: Callable[[Thing], object] = str,
    within: tuple[float, float] = (0, 100),
) -> Updates[Tracked[Made]]:
    """Does `work` with one thing after another. What it yields are updates, what it returns is kept.

    One that fails leaves a warning, in which it is called `name(thing)`, and the work goes on; `Fatal` and `Retryable`
    are the job's. The job's `items` count along, and its progress from the one percentage of `within` to the other, if
    `total` is given or `things` have a length; otherwise the total is 0, which is to say that nobody knows it.
    """
    if total is None:
        total = len(things) if isinstance(things, Sized) else 0
    made: list[Made] = []
    failed = 0
    yield Progress(within[0], items=Items(0, 0, total))
    for number, thing in enumerate(things, start=1):
        try:
            given: Any = work(thing)
            made.append((yield from given) if isinstance(given, Generator) else given)
        except (Fatal, Retryable):
            raise
        except Exception as error:  # noqa: BLE001  # whatever is wrong with this one, the others may be right
            failed += 1
            yield Log(f"{name(thing)}: {type(error).__name__}: {error}", "warn")
        percent = within[0] + (within[1] - within[0]) * number / total if total else None
        yield Progress(percent, items=Items(number - failed, failed, total))
    return Tracked(made, Items(len(made), failed, total))
