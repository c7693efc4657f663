"""One worker process that is kept alive: what it reported, in all its lives, and whether it stands still."""

import os
from pathlib import Path
from threading import Lock

from infra.supervisor import Program
from services.worker.metrics import Metrics
from services.worker.report import Report, State, read

STILL = 60
"""Looks, a second apart, in which nothing was reported: such a process does not come back. Its leases have long run out
by then. Looks and not seconds: who stood still may have been all of us, with the machine."""


class Worker(Program):
    """Looked at by one thread, started by another."""

    def __init__(self, name: str, queue: str, file: Path) -> None:
        arguments = ["-m", "services.worker", "--queue", queue, "--report-file", str(file)]
        super().__init__(name, arguments, os.environ)
        self.queue = queue
        self.starts = 0
        self.state = State()
        self._file = file
        self._lock = Lock()
        self._before, self._cpu_before = Metrics(), 0.0
        """Of those that have ended."""
        self._last: Report | None = None
        self._written: int | None = None
        self._looks = 0
        """Since it last reported."""

    def start(self) -> int:
        with self._lock:
            self._read()
            self._file.unlink(missing_ok=True)
            if self._last is not None:
                self._before.add(self._last.metrics)
                self._cpu_before += self._last.cpu
            self.state, self._last, self._written, self._looks = State(), None, None, 0
        pid = super().start()
        self.starts += 1
        return pid

    def look(self) -> None:
        """To be called once a second."""
        with self._lock:
            before = self._written
            self._read()
            # not before its first report: it may take its time to start, waiting for the database to be migrated
            self._looks = self._looks + 1 if before is not None and self._written == before else 0

    @property
    def fresh(self) -> bool:
        """Whether it has reported lately."""
        return self._written is not None and self._looks <= STILL // 6

    @property
    def still(self) -> bool:
        """Whether it has not reported for so long that it has to be replaced."""
        return self._looks >= STILL

    def counted(self) -> tuple[Metrics, float]:
        """What it counted in all its lives, and seconds of processor time."""
        with self._lock:
            total = Metrics()
            total.add(self._before)
            if self._last is None:
                return total, self._cpu_before
            total.add(self._last.metrics)
            return total, self._cpu_before + self._last.cpu

    def reported(self, report: Report) -> None:
        """What it says of itself now."""
        self._last, self.state = report, report.state

    def _read(self) -> None:
        try:
            written = self._file.stat().st_mtime_ns
        except OSError:
            return
        if written != self._written:
            self._written = written
            report = read(self._file)
            if report is not None:
                self.reported(report)
