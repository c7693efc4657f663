"""Dispatchers: tell listeners of transitions, at least once, and those of one batch in order.

The statements that add a transition also say in the outbox, for each listener, that its batch has news. A dispatcher
takes such a row by a lease (`token`, and `due_at` as its end), tells the batch's transitions one by one, notes how far
it came, and takes the row away when nothing is left. No lock is held meanwhile. What a killed worker had told and not
noted is told again by the next one; the fence is the token.

Each listener has a thread of its own: one that hangs or fails keeps nobody else from being told, and no job from
running.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy import Connection, Engine, Row, TextClause

from services.worker.loop import Loop
from services.worker.metrics import Metrics, OfListener
from shared import queries
from shared.listeners import Listener, TransitionEvent
from shared.outage import Outage
from shared.settings import Settings

_PERIOD = 1.0
"""Seconds between two looks for news of other processes. What this one commits is told at once."""

_PAUSE = 0.05
"""Seconds between two looks at least: a busy worker commits hundreds of times a second."""

_LEASES = 4
"""Times HEADWAY_LEASE that telling one transition may take. After that it is told again, by another worker if there is
one: whoever told it is taken for dead."""

_PAGE = 100
"""Transitions of one batch; then it is another batch's turn."""

_NOTE = 1.0
"""Seconds after which it is noted how far a page has been told: a worker that is killed repeats no more than these."""

_BACKOFF = (1.0, 900.0)
"""Seconds before the second attempt, and at most."""

_ATTEMPTS = 100
"""At telling one transition: with the backoff most of a day, in which somebody can put the listener right."""

_SEEN = 600.0
"""Seconds between two signs that the listener is still there."""

_READY = 5.0
"""Seconds that the start of a worker waits until its listeners are known: what comes after it is told."""

_FAREWELL = 1.0
"""Seconds that a worker that leaves waits for what is being told."""

log = structlog.get_logger(__name__)


class Dispatchers:
    """Those of one process."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        listeners: Mapping[str, Listener],
        metrics: Metrics | None = None,
    ) -> None:
        counts = {} if metrics is None else metrics.listeners
        self._all = [
            Dispatcher(engine, settings, name, listener, counts.setdefault(name, OfListener()))
            for name, listener in listeners.items()
        ]

    def start(self) -> None:
        """Returns when all are known, or not for a while because PostgreSQL is away."""
        for dispatcher in self._all:
            dispatcher.start()
        until = time.monotonic() + _READY
        for dispatcher in self._all:
            dispatcher.known.wait(max(0.0, until - time.monotonic()))

    def wake(self) -> None:
        """This process has committed something."""
        for dispatcher in self._all:
            dispatcher.wake()

    def stop(self) -> None:
        """Nothing more is told; what is being told gets a moment to end, so that it need not be told again."""
        for dispatcher in self._all:
            dispatcher.stop()
        until = time.monotonic() + _FAREWELL
        for dispatcher in self._all:
            dispatcher.join(max(0.0, until - time.monotonic()))


class Dispatcher:
    """Of one listener in one process."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        name: str,
        listener: Listener,
        counts: OfListener | None = None,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._lease = _LEASES * settings.lease
        self._name = name
        self._listener = listener
        self._jitter = jitter
        self._counts = counts or OfListener()
        self._held: dict[str, Any] | None = None
        """The row that was taken, and under which token. It stays here while PostgreSQL has not heard of its end."""
        self._delivered = 0
        """Up to which it was told."""
        self._looked = 0.0
        self._seen = -_SEEN
        self._stopping = False
        postgresql = Outage("postgresql", "listeners")
        self._loop = Loop(f"listener {name}", self._turn, _PERIOD, first=0, postgresql=postgresql)
        self.known = Event()
        """From here on the listener misses nothing."""

    def start(self) -> None:
        self._loop.start()

    def wake(self) -> None:
        self._loop.wake()

    def stop(self) -> None:
        """Returns at once; the transition that is being told is the last."""
        self._stopping = True
        self._loop.stop()

    def join(self, timeout: float) -> bool:
        return self._loop.join(timeout)

    def _turn(self) -> None:
        time.sleep(max(0.0, self._looked + _PAUSE - time.monotonic()))
        self._looked = time.monotonic()
        self.register()
        self.let_go()
        while not self._stopping and self.tell():
            self.register()  # where news never end a turn does not, and the listener would be forgotten

    def register(self) -> None:
        if time.monotonic() - self._seen < _SEEN:
            return
        self._execute(queries.REGISTER_LISTENERS, names=[self._name])
        self._seen = time.monotonic()
        self.known.set()

    def let_go(self) -> None:
        """What was held when PostgreSQL went away."""
        if self._held is not None:
            self._leave(None, 0)

    def tell(self) -> bool:
        """One page of one batch. Whether there was one."""
        token = uuid4()
        taken = self._execute(queries.TAKE_NEWS, token=token, lease=self._lease)
        if taken is None:
            return False
        self._held = {"batch_id": taken.batch_id, "token": token}
        self._delivered = taken.delivered
        with self._autocommit() as connection:
            page = {"batch_id": taken.batch_id, "delivered": taken.delivered, "limit": _PAGE}
            rows = connection.execute(queries.NEWS, page).mappings()
            events = [TransitionEvent(owner=taken.owner, kind=taken.kind, **row) for row in rows]
        if self._tell_page(events, taken.failures):
            if len(events) < _PAGE:
                self._delivered = max(self._delivered, taken.last)
            if self._note(queries.END_NEWS) is None:
                self._leave(0, 0)
            self._held = None
        return True

    def _tell_page(self, events: list[TransitionEvent], failures: int) -> bool:
        """Whether all of it was told. `failures`: of the first."""
        noted = time.monotonic()
        for event in events:
            if self._stopping:
                self._leave(failures, 0)
                return False
            if time.monotonic() - noted >= _NOTE:
                if self._note(queries.KEEP_NEWS, failures=failures, lease=self._lease) is None:
                    log.warning("a listener took so long that it is told by another worker by now", listener=self._name)
                    self._held = None
                    return False
                noted = time.monotonic()
            if failures >= _ATTEMPTS:
                self._skip(event, failures)
            elif error := self._tell(event):
                self._failed(event, failures + 1, error)
                return False
            self._delivered, failures = event.id, 0
        return True

    def _tell(self, event: TransitionEvent) -> BaseException | None:
        """What the listener raised."""
        try:
            self._listener(event)
        except BaseException as error:  # noqa: BLE001  # also SystemExit, which would end this thread and nothing else
            self._counts.failed += 1
            return error
        self._counts.told += 1
        return None

    def _failed(self, event: TransitionEvent, failures: int, error: BaseException) -> None:
        delay = min(_BACKOFF[1], _BACKOFF[0] * 2.0 ** min(failures - 1, 20)) * (0.5 + self._jitter() / 2)
        log.warning(
            "a listener failed, and is told again",
            listener=self._name,
            batch=str(event.batch_id),
            transition=event.id,
            attempt=failures,
            seconds=round(delay, 1),
            error=type(error).__name__,
            exc_info=error if failures == 1 else None,
        )
        self._leave(failures, delay)

    def _skip(self, event: TransitionEvent, failures: int) -> None:
        log.error(
            "a listener was told in vain too often: it will not be told this any more",
            listener=self._name,
            batch=str(event.batch_id),
            transition=event.id,
            attempts=failures,
        )

    def _leave(self, failures: int | None, delay: float) -> None:
        self._note(queries.LEAVE_NEWS, failures=failures, delay=delay)
        self._held = None

    def _note(self, statement: TextClause, **parameters: Any) -> Row[Any] | None:
        """How it stands with what is held."""
        return self._execute(statement, **(self._held or {}), delivered=self._delivered, **parameters)

    def _execute(self, statement: TextClause, **parameters: Any) -> Row[Any] | None:
        """The row that it returns, if any."""
        with self._autocommit() as connection:
            result = connection.execute(statement, {"listener": self._name} | parameters)
            return result.one_or_none() if result.returns_rows else None

    @contextmanager
    def _autocommit(self) -> Iterator[Connection]:
        """Nobody freezes between two statements of a transaction if there is but one."""
        with self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")
