"""How many viewers this process takes: as many as are asked for and it has files for, and so many from one address."""

import resource
from collections import Counter
from collections.abc import Mapping
from typing import Any

import structlog

from shared.settings import Settings, read_proxies
from shared.web.client_address import client_address

_SPARE = 1000
"""Files for everything else: servers, logs, and those who come only to be told that it is full."""

_STRANGERS = 10
"""One in so many viewers may be a connection that has not said yet whose it is."""

log = structlog.get_logger(__name__)


def room_for(viewers: int) -> int:
    """So many as that, or fewer if this process may not open as many files. It may use all that it is allowed to then:
    what a shell or a container begins with is mostly far less.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _widen(soft, hard, viewers + _SPARE)
    if most < viewers + _SPARE:
        fewer = most - min(_SPARE, most // 4)
        if fewer < viewers:
            log.warning("fewer viewers than HEADWAY_VIEWERS: too few open files (ulimit -n)", files=most, viewers=fewer)
            return fewer
    return viewers


def strangers_among(viewers: int) -> int:
    """How many connections may be open at a time that are nobody's yet: those of users must find room beside them."""
    return max(1, viewers // _STRANGERS)


def _widen(soft: int, hard: int, wanted: int) -> int:
    """How many files may be open afterwards."""
    if soft == resource.RLIM_INFINITY:
        return wanted
    aim = wanted if hard == resource.RLIM_INFINITY else hard
    if aim > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (aim, hard))
        except (ValueError, OSError):  # some systems have a limit below what they say is the hard one
            return soft
    return max(aim, soft)


class Addresses:
    """Connections of each address, in this process. Raises SettingsError."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.address_viewers
        self._proxies = read_proxies(settings)
        self._open: Counter[str] = Counter()

    def of(self, scope: Mapping[str, Any]) -> str:
        """Where this connection comes from; empty if nobody wants to know."""
        return client_address(scope, self._proxies) if self._most else ""

    def enter(self, address: str) -> bool:
        """One more, if there may be. An address that is not known, which is empty, is not counted."""
        if address and self._most:
            if self._open[address] >= self._most:
                return False
            self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        if not address:
            return
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
