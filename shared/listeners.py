"""What a listener receives: all that the author of one has to know. docs/listeners.md shows a whole one.

A listener is an entry point of the group `headway.listeners` in any installed package:

    [project.entry-points."headway.listeners"]
    "shop.webhook" = "shop.headway:on_transition"
"""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from msgspec import Struct

GROUP = "headway.listeners"


class TransitionEvent(Struct, frozen=True, kw_only=True):
    """A batch or one of its jobs has come from one state into another, which is committed."""

    id: int
    """Of the transition: the same one may be told again, and is known by this. Within a batch they rise."""
    batch_id: UUID
    owner: str
    kind: str
    job_id: UUID | None
    """None: it is the batch's own."""
    old: str | None
    """None: it was created."""
    new: str
    attempt: int | None
    """Of the job."""
    at: datetime
    reason: str
    """A code: created, started, completed, lease_expired, …"""
    message: str | None
    """For people, where the code does not say it all."""


Listener = Callable[[TransitionEvent], None]
"""Whatever it returns, it was told. If it raises, it is told the same again later."""
