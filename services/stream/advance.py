"""An advance: what brings a topic from one version of its batch to a later one, by whichever way it came."""

from msgspec import Struct

from shared.events import Batch, Delta, Job, Line, encode
from shared.outlook import Outlook


class Part(Struct, frozen=True, gc=False):
    """A job or a log line, encoded once for everybody, and the version that last touched it."""

    version: int
    number: int
    """Of a job, its position in the batch; of a line, which of its job's it is."""
    data: bytes


class Advance(Struct, frozen=True):
    """All that changed after version `since` (0: everything), in the order of versions."""

    epoch: str
    since: int
    batch: Batch
    jobs: list[Part]
    lines: list[Part]
    """Oldest first; perhaps only the newest of them, which `line_count` shows."""
    line_count: int
    """How many lines the batch has now."""
    outlook: Outlook = Outlook()
    """What is expected of it, if that was asked as well."""


def job_part(version: int, job: Job) -> Part:
    return Part(version, job.position, encode(job))


def line_part(version: int, line: Line) -> Part:
    return Part(version, line.n, encode(line))


def advance_of(epoch: str, since: int, to: int, delta: Delta) -> Advance:
    """What a Redis frame says."""
    jobs = [job_part(to, job) for job in delta.jobs]
    lines = [line_part(to, line) for line in delta.lines]
    return Advance(epoch, since, delta.batch, jobs, lines, delta.line_count)
