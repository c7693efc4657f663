"""How long a connection may last."""

import asyncio
import time
from typing import Protocol

from services.stream.carrier import Limits
from shared.settings import Settings


class Reading(Protocol):
    """Who reads, and until when they may. `expires`: seconds since the Unix epoch."""

    @property
    def expires(self) -> float: ...
    @property
    def by_ticket(self) -> bool: ...


def limits_of(settings: Settings, who: Reading, jitter: float) -> Limits:
    """Ends with its token, but not with its ticket. `jitter` is between 0 and 1; in the running loop."""
    now = asyncio.get_running_loop().time()
    lifetime = settings.lifetime * (0.8 + 0.2 * jitter)  # not all at once, or they would all return at once
    left = who.expires - time.time()
    if not who.by_ticket and left < lifetime:
        return Limits(now + left, "token_expired")
    return Limits(now + lifetime, "lifetime")
