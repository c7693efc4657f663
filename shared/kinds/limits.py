"""The limits of kinds: what they say themselves, unless the operator says something else."""

from collections.abc import Iterable

from shared.kinds.kind import Kind
from shared.settings import Limit, Settings, read_limits


def limits_of(kinds: Iterable[Kind], settings: Settings) -> dict[str, Limit]:
    """By kind, those that have one. The setting takes the place of what it names: `kind=@10` leaves `concurrency`."""
    limits = {}
    given = read_limits(settings)
    for kind in kinds:
        other = given.get(kind.name, Limit())
        concurrency = kind.concurrency if other.concurrency is None else other.concurrency
        rate = kind.rate if other.rate is None else other.rate
        if concurrency is not None or rate is not None:
            limits[kind.name] = Limit(concurrency, rate)
    return limits
