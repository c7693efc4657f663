"""Encoding: what is told to viewers, as Server-Sent Events. Pure functions; tests/wire/stream.json shows every form."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap

from msgspec import Struct

from shared.events import (
    ErrorCode,
    EventName,
    Ping,
    Reset,
    ResetReason,
    StreamError,
    Timeout,
    TimeoutReason,
    Truncated,
    encode,
    sse,
)

CHUNK = 64 * 1024
"""Bytes. No event that can be divided is longer, and nothing longer is handed to a transport at once."""

_FRAME = 512
"""Bytes kept free in an event for what surrounds the jobs or lines in it."""


class Story(Struct, frozen=True):
    """What one delta or snapshot has to tell, its parts encoded as JSON already."""

    batch_id: str
    batch: bytes
    final: bool
    """The batch is finished."""
    whole: bool
    """A snapshot: the reader had nothing."""
    jobs: Sequence[bytes]
    lines: Sequence[bytes]
    """Oldest first."""
    left_out: int
    """How many lines, older than these, are not told."""
    logs_url: str
    event_id: str | None
    """None: nothing has happened but that estimates were made anew, of which a `progress` without id tells."""


def encode_story(story: Story) -> Iterator[bytes]:
    """Server-Sent Events, as chunks of at most CHUNK bytes, each made when it is asked for."""
    return chunked(starmap(sse, told(story)))


def told(story: Story) -> Iterator[tuple[EventName, bytes, str | None]]:
    """The events in order, each with its data; only the last carries the id, if there is one."""
    for lines in _log_data(story):
        yield "log", lines, None
    groups = _groups(story.jobs, _room(story))
    if not story.final:
        group = next(groups)
        for later in groups:
            yield "progress", _with_jobs(story.batch, group), None
            group = later
        yield "progress", _with_jobs(story.batch, group), story.event_id
    else:
        fits = sum(map(len, story.jobs)) + len(story.jobs) < CHUNK
        if story.whole or not fits:
            for group in groups:
                yield "progress", _with_jobs(story.batch, group), None
        yield "complete", _with_jobs(story.batch, story.jobs if fits else ()), story.event_id


def weight(story: Story) -> int:
    """Bytes that telling it may come to hold: what it is made of, and what is made of that."""
    pieces = sum(map(len, story.jobs)) + sum(map(len, story.lines))
    return 2 * pieces + len(story.batch) * (2 + pieces // _room(story))


def never_cut(story: Story) -> bool:
    """Whether every event fits into a chunk, so that each chunk ends with an event."""
    longest = max(map(len, (*story.jobs, *story.lines)), default=0)
    return len(story.batch) + longest + _FRAME <= CHUNK // 2


def reset_event(reason: ResetReason, event_id: str) -> bytes:
    return sse("reset", encode(Reset(reason)), event_id)


def ping_event(milliseconds: int) -> bytes:
    return sse("ping", encode(Ping(milliseconds)))


def timeout_event(reason: TimeoutReason) -> bytes:
    return sse("timeout", encode(Timeout(reason)))


def error_event(code: ErrorCode, message: str, *, retryable: bool) -> bytes:
    return sse("error", encode(StreamError(code, message, retryable)))


def truncation(story: Story) -> bytes:
    return b"null" if not story.left_out else encode(Truncated(story.left_out, story.logs_url))


def _log_data(story: Story) -> Iterator[bytes]:
    if not (story.lines or story.left_out):
        return
    truncated = truncation(story)
    for group in _groups(story.lines, CHUNK - _FRAME - len(truncated)):
        lines = b",".join(group)
        yield b'{"batchId":"%b","lines":[%b],"truncated":%b}' % (story.batch_id.encode(), lines, truncated)
        truncated = b"null"  # the lines left out are older than the first of these


def _room(story: Story) -> int:
    """Bytes of jobs in one event."""
    # where the batch itself is long, as with a large summary, the events of one snapshot are not many times that
    return max(CHUNK - len(story.batch) - _FRAME, CHUNK // 4, len(story.batch))


def _groups(pieces: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    """As `packed`, but at least one."""
    return packed(pieces, size) if pieces else iter([()])


def _with_jobs(batch: bytes, jobs: Sequence[bytes]) -> bytes:
    """The batch's object with one more member."""
    return b'%b,"jobs":[%b]}' % (batch[:-1], b",".join(jobs))


def packed(pieces: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Pieces in groups of at most `size` bytes, a separator counted for each; one that is longer stands alone."""
    group: list[bytes] = []
    used = 0
    for piece in pieces:
        if group and used + len(piece) + 1 > size:
            yield group
            group, used = [], 0
        group.append(piece)
        used += len(piece) + 1
    if group:
        yield group


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, in as few chunks of at most CHUNK as that takes."""
    for group in packed(pieces, CHUNK):
        together = b"".join(group)
        for start in range(0, len(together), CHUNK):
            yield together[start : start + CHUNK]
