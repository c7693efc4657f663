"""Encoding: what is told to viewers, as Server-Sent Events. Pure functions; tests/wire/stream.json shows every form."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from shared.events import (
    ErrorCode,
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
    event_id: str


def encode_story(story: Story) -> tuple[bytes, ...]:
    """The events in order, as chunks of at most CHUNK bytes; only the last event carries the id."""
    events = [*_log_events(story)]
    room = max(CHUNK - len(story.batch) - _FRAME, CHUNK // 4)
    groups = list(packed(story.jobs, room)) or [[]]
    if not story.final:
        *early, last = groups
        events += [sse("progress", _with_jobs(story.batch, group)) for group in early]
        events.append(sse("progress", _with_jobs(story.batch, last), story.event_id))
    else:
        fits = sum(map(len, story.jobs)) + len(story.jobs) < CHUNK
        if story.whole or not fits:
            events += [sse("progress", _with_jobs(story.batch, group)) for group in groups]
        events.append(sse("complete", _with_jobs(story.batch, story.jobs if fits else ()), story.event_id))
    return tuple(chunked(events))


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


def _log_events(story: Story) -> Iterator[bytes]:
    truncated = truncation(story)
    groups = list(packed(story.lines, CHUNK - _FRAME - len(truncated)))
    if not groups and story.left_out:
        groups = [[]]
    for group in groups:
        lines = b",".join(group)
        yield sse("log", b'{"batchId":"%b","lines":[%b],"truncated":%b}' % (story.batch_id.encode(), lines, truncated))
        truncated = b"null"  # the lines left out are older than the first of these


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
