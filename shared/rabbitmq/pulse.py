"""Whether a server owes an answer for too long."""

import time

PATIENCE = 1.5
"""Seconds for an answer, after which the server counts as away."""


class Pulse:
    """One thread asks and gets answers; any may look. At first an answer is owed."""

    def __init__(self) -> None:
        self._since: float | None = time.monotonic()
        self._error: BaseException | None = None

    def asked(self) -> None:
        """Also again and again."""
        if self._since is None:
            self._since = time.monotonic()

    def answered(self) -> None:
        self._since = self._error = None

    def failed(self, error: BaseException) -> None:
        """There will be no answer, for this reason."""
        self._error = error

    @property
    def trouble(self) -> BaseException | None:
        """Why the server counts as away, if it does."""
        since, error = self._since, self._error
        if error is not None:
            return error
        return TimeoutError() if since is not None and time.monotonic() - since > PATIENCE else None
