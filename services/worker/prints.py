"""What handlers, and libraries that they use, print: it becomes events of the process's log, and so is masked."""

import io
import sys
from threading import local

import structlog

_LONGEST = 64 * 1024
"""Characters without a line break that are kept to wait for one."""

log = structlog.get_logger(__name__)


class Prints(io.TextIOBase):
    """Stands in for a standard stream; an event for each line."""

    def __init__(self) -> None:
        self._of_thread = local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._of_thread, "rest", "") + text).split("\n")
        if len(rest) > _LONGEST:
            lines, rest = [*lines, rest], ""
        self._of_thread.rest = rest
        for line in lines:
            if line.strip():
                log.info("printed", text=line)
        return len(text)


def catch_prints() -> None:
    """To be called after the log was set up, which goes on writing where it did."""
    sys.stdout = Prints()
    sys.stderr = Prints()
