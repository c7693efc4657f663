"""What is said over a WebSocket: commands in, deliveries and errors out.

A delivery is what the same topic tells as Server-Sent Events, in another envelope: it is made once for all who watch.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct, structs

from services.stream.feed import FeedStory, all_of
from services.stream.frames import Story, told
from shared.errors import FieldError, Invalid, Malformed
from shared.event_ids import EventId, batch_check, parse_event_id
from shared.events import EventName, FeedEventName, SocketErrorCode, encode
from shared.web.conversation import Auth, Command, SocketError, Subscribe, Unsubscribe
from shared.web.validation import convert, unstorable

# -- in -----------------------------------------------------------------------------------------------------------


_COMMANDS: dict[str, type[Command]] = {"auth": Auth, "subscribe": Subscribe, "unsubscribe": Unsubscribe}


def read_command(text: str) -> Command:
    """Raises Malformed, and Invalid, which names every wrong field."""
    try:
        value: Any = msgspec.json.decode(text)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        raise Malformed("this is not JSON") from None
    if not isinstance(value, dict):
        raise Malformed("expected an object")
    kind = value.pop("type", None)
    known = _COMMANDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise Invalid(errors=[FieldError("type", f"expected one of {', '.join(_COMMANDS)}")])
    if wrong := list(unstorable(value, "")):
        raise Invalid(errors=wrong)
    return convert(value, known)


# -- out ----------------------------------------------------------------------------------------------------------


def message(name: EventName | FeedEventName, topic: str | None, data: bytes, event_id: str | None = None) -> bytes:
    head = encode({"type": name, "topic": topic, "id": event_id})
    return b'%b,"data":%b}' % (head[:-1], data)


def error_message(code: SocketErrorCode, text: str, topic: str | None = None) -> bytes:
    """`topic` None: it concerns the connection, or what could not be read."""
    return encode(SocketError("error", topic, code, text))


def encode_batch(story: Story) -> Iterator[bytes]:
    """`batch:<id>`; to be used with filters that ask for no lines."""
    topic = f"batch:{story.batch_id}"
    return (message(name, topic, data, event_id) for name, data, event_id in told(story))


def encode_logs(story: Story) -> Iterator[bytes]:
    """`logs:<id>`: `log`, and `complete`. A snapshot has a `log` even if there are no lines, so that it has an id."""
    events = [(name, data) for name, data, _ in told(story) if name != "progress"]
    if story.whole and all(name != "log" for name, _ in events):
        events.insert(0, ("log", b'{"batchId":"%b","lines":[],"truncated":null}' % story.batch_id.encode()))
    return _numbered(f"logs:{story.batch_id}", events, story.event_id)


def encode_batches(story: FeedStory) -> Iterator[bytes]:
    """`batches`: all that there are, then each that changed."""
    if story.whole:
        yield message("batches", "batches", all_of(story))
        return
    for item in story.items:
        yield message("batch", "batches", item)


class JobEncoder(Struct, frozen=True):
    """`job:<id>`: what concerns one job of a batch. A delta that does not is empty."""

    job_id: UUID

    def __call__(self, story: Story) -> Iterator[bytes]:
        mark = str(self.job_id).encode()
        jobs = [job for job in story.jobs if job.startswith(b'{"id":"%b"' % mark)]
        lines = [line for line in story.lines if line.startswith(b'{"jobId":"%b"' % mark)]
        left_out = story.left_out
        if story.whole and lines:
            left_out = msgspec.json.decode(lines[0], type=_Numbered).n - 1
        if not (jobs or lines or left_out or story.whole or story.final):
            return iter(())
        logs_url = f"{story.logs_url}?job={self.job_id}"
        ours = structs.replace(story, jobs=jobs, lines=lines, left_out=left_out, logs_url=logs_url)
        told_last = None if story.event_id is None else job_event_id(story.event_id, self.job_id)
        return _numbered(f"job:{self.job_id}", [(name, data) for name, data, _ in told(ours)], told_last)


class _Numbered(Struct):
    """Of a line, what `JobEncoder` needs."""

    n: int


@lru_cache(maxsize=4096)
def job_encoder(job_id: UUID) -> JobEncoder:
    """The same for all who watch a job, or they would share nothing."""
    return JobEncoder(job_id)


def job_event_id(event_id: str, job_id: UUID) -> str:
    """An id of the job's batch as one of the job's topic: who has seen one job has not seen another."""
    return str(structs.replace(_parsed(event_id), check=batch_check(job_id)))


def batch_event_id(event_id: str, job_id: UUID, batch_id: UUID) -> str:
    """The other way round; what is none of this job's stays something that is none of the batch's."""
    parsed = parse_event_id(event_id)
    if parsed is None or parsed.check != batch_check(job_id):
        return "none"
    return str(structs.replace(parsed, check=batch_check(batch_id)))


def _parsed(event_id: str) -> EventId:
    parsed = parse_event_id(event_id)
    if parsed is None:
        raise ValueError(event_id)
    return parsed


def _numbered(topic: str, events: Sequence[tuple[EventName, bytes]], event_id: str | None) -> Iterator[bytes]:
    """Only the last carries the id."""
    for number, (name, data) in enumerate(events, start=1):
        yield message(name, topic, data, event_id if number == len(events) else None)
