"""Servers that go away: each part of a process that leans on one says it once, and once that it is back."""

from threading import Lock
from typing import Literal

import structlog

log = structlog.get_logger(__name__)


class Outage:
    """What one `part` of this process knows of a server; at first, that it is there. For any thread."""

    def __init__(self, server: Literal["postgresql", "rabbitmq", "redis", "s3"], part: str) -> None:
        self.away = False
        self._gone, self._back = f"{server} is away", f"{server} is back"
        self._part = part
        self._lock = Lock()

    def begin(self, error: BaseException, why: str = "") -> None:
        """It did not answer; also again and again. `why`: a word that says more than the error's type."""
        with self._lock:
            if self.away:
                return
            self.away = True
        # not what the error says: that may be a statement, or an address
        log.warning(self._gone, part=self._part, error=why or type(error).__name__)

    def end(self) -> None:
        """It answered; also again and again."""
        if not self.away:
            return
        with self._lock:
            if not self.away:
                return
            self.away = False
        log.info(self._back, part=self._part)
