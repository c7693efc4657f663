"""Event ids: where a reader is in the history of one batch. Opaque to clients, at most 32 safe ASCII characters."""

import re
from typing import Literal
from uuid import UUID
from zlib import crc32

from msgspec import Struct

JobsFilter = Literal["all", "changed", "none"]
_JOBS: dict[JobsFilter, str] = {"all": "a", "changed": "c", "none": "n"}
_JOBS_BACK: dict[str, JobsFilter] = {short: name for name, short in _JOBS.items()}
_FORM = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-z]{1,11})-([acn])([0-9a-z]{1,2})")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

LONGEST_ID = 32
"""Characters."""

LOGS_MAX = 1000
"""The most log lines that a reader may ask for first, and the most of one delta."""


class Filters(Struct, frozen=True):
    """What a reader asked to be shown; two readers with equal filters share every byte."""

    jobs: JobsFilter = "all"
    logs: int = LOGS_MAX
    """How many of the last lines first, 0 to LOGS_MAX; 0 means no lines ever."""


class EventId(Struct, frozen=True):
    epoch: str
    check: str
    version: int
    """0 means: nothing yet."""
    filters: Filters

    def __str__(self) -> str:
        return (
            f"{self.epoch}-{self.check}-{_base36(self.version)}-{_JOBS[self.filters.jobs]}{_base36(self.filters.logs)}"
        )


def batch_check(batch_id: UUID) -> str:
    """A short check, so that an id of another batch is noticed."""
    return f"{crc32(batch_id.bytes) & 0xFFFF:04x}"


def parse_event_id(text: str) -> EventId | None:
    """The id, or None if it is none of ours."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    epoch, check, version, jobs, logs = match.groups()
    return EventId(epoch, check, int(version, 36), Filters(_JOBS_BACK[jobs], int(logs, 36)))


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, rest = divmod(number, 36)
        digits = _DIGITS[rest] + digits
        if not number:
            return digits
