"""A thread of the process that does the same thing again and again, whatever goes wrong with it once."""

from collections.abc import Callable
from threading import Event, Thread

import structlog
from sqlalchemy.exc import SQLAlchemyError

from shared.outage import Outage

log = structlog.get_logger(__name__)


class Loop:
    """`turn` is called `period` seconds after each time, or as many as it returns; at first after `first` of them.

    `postgresql`: who tells when it is away, if `turn` leaves that to us.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[], float | None],
        period: float,
        *,
        first: float | None = None,
        postgresql: Outage | None = None,
    ) -> None:
        self._name = name
        self._turn = turn
        self._period = period
        self._first = first
        self._postgresql = postgresql
        self._stopping = False
        self._awake = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """The next turn comes now."""
        self._awake.set()

    def stop(self) -> None:
        """Returns at once; the turn that is under way is finished."""
        self._stopping = True
        self._awake.set()

    def join(self, timeout: float) -> bool:
        """Whether it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause = self._first
        while not self._rest(self._period if pause is None else pause):
            pause = None
            try:
                pause = self._turn()
                if self._postgresql is not None:
                    self._postgresql.end()
            except Exception as error:  # a bug in one turn must not end all of them
                if self._postgresql is not None and isinstance(error, SQLAlchemyError):
                    self._postgresql.begin(error)
                else:
                    log.exception("a turn failed", part=self._name)

    def _rest(self, seconds: float) -> bool:
        """Whether that was the end."""
        self._awake.wait(seconds)
        self._awake.clear()
        return self._stopping
