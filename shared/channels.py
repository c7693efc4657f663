"""Every Redis name, and the one codec for what travels through Redis.

| name | type | what |
|---|---|---|
| `headway:batch:{<id>}` | pub/sub | a `Frame` after each commit that changed the batch |
| `headway:owner:{<sub>}` | pub/sub | an `OwnerFrame` after each commit that changed any of an owner's batches |
| `headway:conn:{<sub>}` | hash | viewers of an owner: `<process>` → `<how many>:<until, in ms>`; expires by itself |
| `headway:dramatiq:*` | Dramatiq's | work tickets, a queue for each of kinds, unless `BROKER_URL` has them elsewhere |

`HEADWAY_NAMESPACE` is put before each. Nothing here is a fact: the server may be emptied at any moment.
"""

import time
from collections.abc import Callable
from uuid import UUID

import msgspec
import redis
from msgspec import Raw, Struct, structs

from shared.events import Batch, Delta, encode
from shared.outage import Outage
from shared.trace import CURRENT

FORMAT = 1
"""Of both kinds of frames. A reader that meets another one only takes note that something changed."""

LARGEST_DELTA = 64 * 1024
"""Bytes. Above it a frame carries the versions only, and readers ask PostgreSQL."""

_NULL = Raw(b"null")

_AWAY_FOR = 1.0
"""Seconds for which nothing is published after a failure: a commit must not wait for a server that is away."""


class Frame(Struct, rename={"since": "from"}, omit_defaults=True):
    """A change of one batch, from one version to another. `delta` is JSON, null when it is large or not known."""

    format: int
    epoch: str
    since: int
    to: int
    delta: Raw = _NULL
    at: int = 0
    """When it was committed, in milliseconds since 1970 by the publisher's clock; 0: it was not said."""
    traceparent: str = ""
    """Of what caused it, as W3C writes it; empty: it is a part of no trace."""

    # For the publisher, who tells the owner: these are not sent with it.
    owner: str = ""
    """Whose batch it is; empty: nobody is told."""
    batch: Raw = _NULL
    """As in OwnerFrame."""
    deleted: bool = False


class OwnerFrame(Struct, rename="camel", omit_defaults=True):
    """What became of one batch of an owner's. `batch` is JSON, null when it is large or not known; then, unless it is
    `deleted`, its reader asks PostgreSQL.
    """

    format: int
    epoch: str
    batch_id: UUID
    batch: Raw = _NULL
    deleted: bool = False
    at: int = 0
    """As in Frame."""


_decode_frame = msgspec.json.Decoder(Frame).decode
_decode_owner_frame = msgspec.json.Decoder(OwnerFrame).decode
_decode_delta = msgspec.json.Decoder(Delta | None).decode


def batch_channel(namespace: str, batch_id: UUID) -> str:
    return f"{namespace}headway:batch:{{{batch_id}}}"


def owner_channel(namespace: str, owner: str) -> str:
    """As for `viewers_key`."""
    return f"{namespace}headway:owner:{{{owner}}}"


def viewers_key(namespace: str, owner: str) -> str:
    """An owner is any printable text: as it is the last in the name, no two owners share one."""
    return f"{namespace}headway:conn:{{{owner}}}"


def broker_namespace(namespace: str) -> str:
    return f"{namespace}headway:dramatiq"


def make_frame(epoch: str, since: int, batch: Batch, delta: Delta | None) -> Frame:
    """What led from `since` to this batch; what is too large to send to everybody is left out."""
    told = encode(batch)
    if delta is not None:
        delta = structs.replace(delta, batch=Raw(told))  # encoded once, for those who watch it and for its owner
    return Frame(
        FORMAT, epoch, since, batch.version, _sendable(encode(delta)), owner=batch.owner, batch=_sendable(told)
    )


def uncertain(frame: Frame) -> Frame:
    """Where nobody knows whether that was committed: everybody has to look."""
    return structs.replace(frame, since=0, delta=_NULL, batch=_NULL, deleted=False)


def _sendable(encoded: bytes) -> Raw:
    return Raw(encoded) if len(encoded) <= LARGEST_DELTA else _NULL


def decode_frame(message: bytes) -> tuple[Frame, Delta | None] | None:
    """The frame and its delta; None for a message of another format."""
    try:
        frame = _decode_frame(message)
        if frame.format != FORMAT:
            return None
        return frame, _decode_delta(frame.delta)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def decode_owner_frame(message: bytes) -> OwnerFrame | None:
    """None for a message of another format."""
    try:
        frame = _decode_owner_frame(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return frame if frame.format == FORMAT else None


def _nobody() -> None:
    pass


class Publisher:
    """Tells whoever listens what was committed. Never raises and never blocks for long: these are hints."""

    def __init__(self, client: "redis.Redis", namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._away_until = 0.0
        """By the monotonic clock."""
        self._redis = Outage("redis", "publishing")
        self.suspended = False
        """Set by whoever knows that Redis is away: then nothing is even tried."""
        self.committed: Callable[[], None] = _nobody
        """Called for each commit of this process, whatever becomes of the hint; it must return at once."""

    @property
    def away(self) -> bool:
        """It has just not answered: nothing else need be said to the same server, and wait as long."""
        return time.monotonic() < self._away_until

    def ask(self) -> bool:
        """Whether Redis answers, for who asks again and again; until it does nothing is even tried."""
        try:
            self._client.ping()
            self._redis.end()
        except (redis.RedisError, OSError) as error:
            self._redis.begin(error)
        self.suspended = self._redis.away
        return not self.suspended

    def publish(self, batch_id: UUID, frame: Frame) -> None:
        """To be called after the commit."""
        self.committed()
        if self.suspended or self.away:
            return
        frame.at = frame.at or time.time_ns() // 1_000_000
        if not frame.traceparent and (trace := CURRENT.get()) is not None:
            frame.traceparent = trace.parent
        pipeline = self._client.pipeline(transaction=False)
        sent = structs.replace(frame, owner="", batch=_NULL, deleted=False)
        pipeline.publish(batch_channel(self._namespace, batch_id), encode(sent))
        if frame.owner:
            told = OwnerFrame(FORMAT, frame.epoch, batch_id, frame.batch, frame.deleted, frame.at)
            pipeline.publish(owner_channel(self._namespace, frame.owner), encode(told))
        try:
            pipeline.execute()
            self._redis.end()
        except (redis.RedisError, OSError) as error:
            self._away_until = time.monotonic() + _AWAY_FOR
            self._redis.begin(error)
