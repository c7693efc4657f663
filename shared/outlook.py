"""What is expected of a batch: why nothing more of it is started at the moment, and when it will be done.

Pure: facts in, an estimate of the moment out. `docs/decisions/0026-waiting-is-found-out-beside.md` has the reasoning.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from msgspec import Struct, structs

from shared.events import Batch, Waiting, stamp
from shared.jobs import FINAL_BATCH
from shared.kinds import KINDS
from shared.kinds.limits import limits_of
from shared.settings import Limit, Settings

LATELY = 3.0
"""Seconds: a batch of which something was started or ended since then is not waiting, whatever the queue is like."""

_USED_UP = timedelta(seconds=0.5)
"""Since the next start of a kind was possible: who comes to look just then would else be told now this, now that."""
_SLOW = 5.0
"""Seconds between two starts by a rate, from which on it is worth saying when the next one is."""

_NOTICED = 0.1
"""The part by which a number must have changed before anybody is told."""
_AT_LEAST = 2.0
"""Seconds by which what is left must."""


class Premises(Struct, frozen=True):
    """What an outlook goes by beside what is in the database."""

    lease: float = 15
    """Seconds after which a worker that is not heard of counts as gone."""
    owner: int | None = None
    """How many jobs of one owner may run at once."""
    kinds: Mapping[str, Limit] = {}
    """How many of a kind, and how fast, where that is limited."""

    @property
    def limited(self) -> bool:
        """Whether it matters how many jobs run."""
        return self.owner is not None or any(limit.concurrency is not None for limit in self.kinds.values())


def premises_of(settings: Settings) -> Premises:
    return Premises(settings.lease, settings.owner_concurrency, limits_of(KINDS.values(), settings))


class Facts(Struct, frozen=True, kw_only=True):
    """Of an unfinished batch with queued jobs that workers of ours are to run, and that neither rests nor is paused."""

    kind: str
    processing: int
    concurrency: int | None
    """The batch's own limit."""
    idle: float | None = None
    """Seconds since anything of it was started or ended; None: nothing has been."""
    workers: int
    """Processes that would start its jobs and were heard of lately."""
    threads: int
    """Jobs that they can run at once."""
    busy: int
    """Those that they do run, as far as they have said."""
    of_owner: int = 0
    """Jobs of its owner that are running or about to, in all batches; counted where there is a limit."""
    of_kind: int = 0
    """The same of its kind."""
    due: datetime | None = None
    """When the next of its kind is due if they start evenly, by the kind's rate; a second's worth may come earlier."""
    ahead: int = 0
    """Jobs of others that come first: see shared/turns.py."""
    job_seconds: float | None = None
    """How long a job takes, if there is anything to go by."""


def waiting(facts: Facts, premises: Premises, now: datetime) -> Waiting | None:
    """The first that holds: nobody is there to start it, it may not have more, it is not its turn. None: it moves, or
    will at once.
    """
    if not facts.workers:
        return Waiting("no_worker")
    limit = premises.kinds.get(facts.kind, Limit())
    if (
        (facts.concurrency is not None and facts.processing >= facts.concurrency)
        or (premises.owner is not None and facts.of_owner >= premises.owner)
        or (limit.concurrency is not None and facts.of_kind >= limit.concurrency)
    ):
        return Waiting("limited")
    if limit.rate is not None and facts.due is not None:
        start = facts.due - timedelta(seconds=(max(1, limit.rate) - 1) / limit.rate)
        if start > now - _USED_UP:
            return Waiting("limited", until=stamp(max(start, now)) if 1 / limit.rate > _SLOW else None)
    if facts.processing or (facts.idle is not None and facts.idle < LATELY):
        return None
    if facts.ahead or facts.busy >= facts.threads:
        return Waiting("behind", ahead=facts.ahead, until=_turn(facts, now))
    return None


def _turn(facts: Facts, now: datetime) -> str | None:
    """When its next job is started if all that come before take as long as its own do."""
    if facts.job_seconds is None or not facts.threads:
        return None
    return stamp(now + timedelta(seconds=(facts.ahead + 1) * facts.job_seconds / facts.threads))


class Outlook(Struct, frozen=True):
    """At one moment, when so many jobs of the batch were `queued`."""

    waiting: Waiting | None = None
    eta_seconds: float | None = None
    eta_low: float | None = None
    eta_high: float | None = None
    queued: int = 0

    @property
    def says_something(self) -> bool:
        return self.waiting is not None or self.eta_seconds is not None

    def of(self, batch: Batch) -> Batch:
        """The batch as it was at that moment, with what was expected of it."""
        return structs.replace(
            batch,
            waiting=self.waiting,
            eta_seconds=self.eta_seconds,
            eta_low=self.eta_low,
            eta_high=self.eta_high,
        )

    def beside(self, batch: Batch) -> Batch:
        """A later state of it as whoever changed it told it, who knows neither workers nor queues: with as much of this
        as that leaves open.
        """
        if batch.waiting is None and self.waiting is not None and self._still_waits(self.waiting, batch):
            return structs.replace(batch, waiting=self.waiting)
        return batch

    def _still_waits(self, waiting: Waiting, batch: Batch) -> bool:
        """What a batch's own row tells (that it is paused or delayed) it would have told."""
        if batch.status in FINAL_BATCH or batch.cancel_requested or not batch.counts.queued:
            return False
        if waiting.reason == "limited":  # it starts one whenever one ends
            return True
        return waiting.reason in {"no_worker", "behind"} and batch.counts.queued >= self.queued


def shown(batch: Batch) -> Outlook:
    """What is said of it."""
    return Outlook(batch.waiting, batch.eta_seconds, batch.eta_low, batch.eta_high, batch.counts.queued)


def differs(told: Outlook, now: Outlook, passed: float, moment: datetime) -> bool:
    """Whether somebody who was told that, `passed` seconds before the `moment`, would notice."""
    return _waits_otherwise(told.waiting, now.waiting, moment) or any(
        _is_elsewhere(before, after, passed)
        for before, after in (
            (told.eta_seconds, now.eta_seconds),
            (told.eta_low, now.eta_low),
            (told.eta_high, now.eta_high),
        )
    )


def _waits_otherwise(told: Waiting | None, now: Waiting | None, moment: datetime) -> bool:
    if told is None or now is None:
        return told is not now
    if (told.reason, told.after) != (now.reason, now.after):
        return True
    if _moved(told.ahead, now.ahead, _NOTICED * (told.ahead or 0)):
        return True
    return _is_elsewhere(_left(told.until, moment), _left(now.until, moment), 0)


def _is_elsewhere(before: float | None, after: float | None, passed: float) -> bool:
    """Seconds: a time that comes nearer as it passes is no news."""
    if before is None:
        return after is not None
    return _moved(max(0.0, before - passed), after, max(_AT_LEAST, _NOTICED * before))


def _moved(before: float | None, after: float | None, by_more_than: float) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(after - before) > by_more_than


def _left(until: str | None, moment: datetime) -> float | None:
    return None if until is None else max(0.0, (datetime.fromisoformat(until) - moment).total_seconds())
