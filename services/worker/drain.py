"""The drain: what a work ticket, or the stand-by, makes a thread do."""

import time
from threading import Lock

from services.worker.ledger import Ledger
from services.worker.metrics import Metrics
from services.worker.runner import Runner
from shared.queue import send_tickets
from shared.tickets import TicketBroker

DRAIN_FOR = 60.0
"""Seconds after which a drain passes its ticket on, so that the broker never holds one message for long."""


class Slots:
    """How many jobs this process may run at once, whoever's threads run them."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._lock = Lock()

    @property
    def free(self) -> int:
        return self._free

    def take(self) -> bool:
        with self._lock:
            if self._free == 0:
                return False
            self._free -= 1
            return True

    def give(self) -> None:
        with self._lock:
            self._free += 1


class Drain:
    """Call it in a thread: it runs jobs until nothing is runnable or a minute is over."""

    def __init__(
        self,
        ledger: Ledger,
        runner: Runner,
        slots: Slots,
        broker: TicketBroker,
        queue: str,
        metrics: Metrics | None = None,
    ) -> None:
        self._ledger = ledger
        self._runner = runner
        self._slots = slots
        self._broker = broker
        self._queue = queue
        self._metrics = metrics or Metrics()
        self.tickets_away = False
        """Kept up to date by the stand-by: tickets are not worth a time-out then."""

    def __call__(self) -> None:
        self._metrics.tickets += 1
        if not self._slots.take():
            return
        try:
            until = time.monotonic() + DRAIN_FOR
            called = False
            while time.monotonic() < until:
                run = self._ledger.next()
                if run is None:
                    return
                if not called and self._ledger.more and self._slots.free:
                    called = True
                    self._send()
                self._runner.run(run)
            self._send()
        finally:
            self._slots.give()

    def _send(self) -> None:
        if not self.tickets_away:
            send_tickets(self._broker, self._queue, 1)
