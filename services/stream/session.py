"""A session: one WebSocket from its opening to its end, what its client asks, and what it is told of its topics."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol
from uuid import UUID

import structlog
from litestar.types import Receive
from msgspec import Struct

from services.stream.carrier import Limits
from services.stream.census import Place, Tally
from services.stream.hub import Hub
from services.stream.messages import error_message, message, read_command
from services.stream.subscription import Asker, Subscription
from shared.errors import HeadwayError, Invalid, TooManyRequests, Unavailable
from shared.events import ErrorCode, Ping, SocketErrorCode, Timeout, encode
from shared.web.conversation import Auth, Subscribe, Unsubscribe

SUBSCRIPTIONS_MAX = 100
"""Of one connection."""

MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 20, 50
"""That a client may send; a page that opens subscribes to some topics at once."""

MISTAKES_MAX = 20
"""Messages that cannot be understood; a program that goes on like that will not begin to make sense."""

_UNREAD_MAX = 100
"""Errors that a client has not read."""

log = structlog.get_logger(__name__)


class Close:
    """What connections are closed with, beside what RFC 6455 has: 1002, 1003, 1007, 1009."""

    LIFETIME = 1001
    NONSENSE = 1008
    INTERNAL = 1011
    DRAINING = 1012
    TRY_LATER = 1013
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    TOO_MANY_MESSAGES = 4429


class Outlet(Protocol):
    """How messages leave; shared.web.sockets.Socket is one."""

    on_writable: Callable[[], None]

    @property
    def takes_more(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    def write(self, text: bytes) -> None: ...
    def hang_up(self, code: int, reason: str) -> None: ...
    def cut(self) -> None: ...


class Reader(Struct, frozen=True):
    """Who reads. `only`: the one batch that a ticket opens."""

    owner: str
    expires: float
    only: UUID | None = None

    @property
    def by_ticket(self) -> bool:
        return self.only is not None


class Session:
    """A guest of the hub. It takes turns in its pump, and stands on its wheel, like every stream."""

    def __init__(self, hub: Hub, reader: Reader, limits: Limits) -> None:
        self.place: Place | Tally | None = None
        self.queued = False
        self._hub = hub
        self._asker = Asker(reader.owner, reader.only, self)
        self._limits = limits
        self._outlet: Outlet | None = None
        self._subscriptions: dict[str, Subscription] = {}
        # no deques, each of which has room for 64 from the beginning
        self._stirred: dict[Subscription, None] = {}
        """Those that may have something to say, in turns."""
        self._errors: list[bytes] = []
        self._end: tuple[bytes, int, str] | None = None
        """Its last message, the code and the reason of its end, once what is under way has been said."""
        self._stuck = False
        self._spoke = 0.0
        self._mistakes = 0
        self._allowance = float(MESSAGES_AT_ONCE)
        self._counted = 0.0

    async def converse(self, outlet: Outlet, receive: Receive) -> None:
        """Until either side has ended it."""
        self._outlet = outlet
        self._spoke = self._counted = asyncio.get_running_loop().time()
        self._hub.metrics.opened["websocket"] += 1
        self._hub.wheel.add(self, min(self._spoke + self._hub.heartbeat, self._limits.end))
        self.wake()
        try:
            while (received := await receive())["type"] == "websocket.receive":
                self._hear(received.get("text") or "")
        finally:
            self._count_end()
            self._outlet = None
            for subscription in list(self._subscriptions.values()):
                self._leave(subscription)
            self._stirred.clear()  # the wheel has us for a while yet

    def _count_end(self) -> None:
        closed = self._hub.metrics.closed["websocket"]
        why = "gone" if self._end is None else self._end[2]
        closed["stuck" if self._stuck else why if why in closed else "misbehaved"] += 1

    # -- hearing ------------------------------------------------------------------------------------------------------

    def _hear(self, text: str) -> None:
        if self._end is not None:
            return
        if not self._afford():
            self._refuse("too_many_messages", "Too many messages at once.")
            self._finish(Close.TOO_MANY_MESSAGES, "too_many_messages")
            return
        try:
            command = read_command(text)
        except HeadwayError as error:
            self._mistakes += 1
            self._refuse_by(error)
            if self._mistakes > MISTAKES_MAX:
                self._finish(Close.NONSENSE, "too_many_mistakes")
            return
        match command:
            case Auth():
                self._refuse("conflict", "This connection has been authenticated.")
            case Subscribe(topic, since):
                self._subscribe(topic, since or "")
            case Unsubscribe(topic):
                if subscription := self._subscriptions.get(topic):
                    self._leave(subscription)

    def _subscribe(self, topic: str, since: str) -> None:
        if topic in self._subscriptions:
            self._refuse("conflict", "This topic is subscribed to.", topic)
        elif len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            self._refuse("too_many_subscriptions", f"More than {SUBSCRIPTIONS_MAX} topics.", topic)
        else:
            subscription = self._subscriptions[topic] = Subscription(topic, self._stir)
            subscription.task = asyncio.get_running_loop().create_task(self._open(subscription, since))

    async def _open(self, subscription: Subscription, since: str) -> None:
        try:
            await subscription.open(self._hub, self._asker, since)
        except HeadwayError as error:
            self._leave(subscription)
            self._refuse_by(error, subscription.name)
        except Exception:
            log.exception("a topic cannot be opened")
            self._leave(subscription)
            self._refuse_by(HeadwayError(), subscription.name)

    def _leave(self, subscription: Subscription) -> None:
        if self._subscriptions.get(subscription.name) is subscription:  # and not another one to the same topic
            del self._subscriptions[subscription.name]
        self._stirred.pop(subscription, None)
        subscription.over = "deleted"
        if subscription.task is not None and subscription.task is not asyncio.current_task():
            subscription.task.cancel()
        if subscription.viewer is not None:
            self._hub.leave(subscription.viewer)

    def _afford(self) -> bool:
        now = asyncio.get_running_loop().time()
        earned = self._allowance + (now - self._counted) * MESSAGES_PER_SECOND
        self._allowance = min(earned, float(MESSAGES_AT_ONCE)) - 1
        self._counted = now
        return self._allowance >= 0

    # -- speaking -----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There may be something to say, or somebody who can hear it."""
        self._hub.pump.add(self)

    def turn(self, now: float) -> None:
        """For the pump."""
        outlet = self._outlet
        if outlet is None or not outlet.takes_more:
            return
        said = self._next(now)
        if said is not None:
            self._spoke = now
            outlet.write(said)
            self._hub.metrics.bytes += len(said)
        if self._end is not None and not self._under_way:
            last, code, reason = self._end
            if last:
                outlet.write(last)
            outlet.hang_up(code, reason)
        elif said is not None:
            self.wake()

    def due(self, now: float) -> float | None:
        """For the wheel."""
        outlet, limits = self._outlet, self._limits
        if outlet is None:
            return None
        if now >= limits.end:
            if self._end is None:
                code = Close.UNAUTHENTICATED if limits.reason == "token_expired" else Close.LIFETIME
                self._finish(code, limits.reason, message("timeout", None, encode(Timeout(limits.reason))))
            elif now >= limits.end + self._hub.heartbeat and not outlet.takes_more:
                self._stuck = True
                outlet.cut()  # it was asked to leave, and does not even read that
                return None
            return now + self._hub.heartbeat
        silent = self._spoke + self._hub.heartbeat
        if now >= silent:
            self.wake()
            silent = now + self._hub.heartbeat
        return min(silent, limits.end)

    def cut(self) -> None:
        """End it at once."""
        if self._outlet is not None:
            self._outlet.cut()

    def dismiss(self, why: ErrorCode, farewell: bytes) -> None:  # noqa: ARG002  # that is for Server-Sent Events
        """For the hub."""
        if why == "draining":
            text, code = "This server is leaving; connect again.", Close.DRAINING
        else:
            text, code = TooManyRequests.title, Close.TRY_LATER
        self._finish(code, why, error_message(why, text))

    def _stir(self, subscription: Subscription) -> None:
        self._stirred[subscription] = None
        self.wake()

    def _next(self, now: float) -> bytes | None:
        if self._errors:
            return self._errors.pop(0)
        while self._stirred:
            subscription = next(iter(self._stirred))
            del self._stirred[subscription]
            said = subscription.next(begin=self._end is None)
            if subscription.over:
                self._leave(subscription)
            elif said is not None:
                self._stirred[subscription] = None  # it may have more, after the others
            if said is not None:
                return said
        if now >= self._spoke + self._hub.heartbeat and self._end is None:
            return message("ping", None, encode(Ping(time.time_ns() // 1_000_000)))
        return None

    @property
    def _under_way(self) -> bool:
        return bool(self._errors or self._stirred)

    def _refuse(self, code: SocketErrorCode, text: str, topic: str | None = None) -> None:
        self._errors.append(error_message(code, text, topic))
        if len(self._errors) > _UNREAD_MAX:
            self._finish(Close.TOO_MANY_MESSAGES, "too_many_messages")
        self.wake()

    def _refuse_by(self, error: HeadwayError, topic: str | None = None) -> None:
        self._refuse(error_code(error, draining=self._hub.draining), sentence(error), topic)

    def _finish(self, code: int, reason: str, last: bytes = b"") -> None:
        if self._end is None:
            self._end = last, code, reason
            self.wake()


def error_code(error: HeadwayError, *, draining: bool) -> SocketErrorCode:
    """As a stream would call it."""
    if isinstance(error, TooManyRequests):
        return "too_many_connections"
    if isinstance(error, Unavailable):
        return "draining" if draining else "overloaded"
    code: SocketErrorCode = error.code  # type: ignore[assignment]  # those that can come here are the same
    return code


def sentence(error: HeadwayError) -> str:
    """What is wrong, in one line; which fields, where it is about fields."""
    if isinstance(error, Invalid) and error.errors:
        return "; ".join(f"{wrong.path}: {wrong.message}" for wrong in error.errors)
    return error.detail
