"""Kind `external`: programs elsewhere do the work and report how it goes. It has no worker, and so no queue."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from shared.kinds.kind import Kind

SILENCE = 300.0
"""Seconds, where a job says nothing of it."""


class External(Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    silence_seconds: Annotated[float, Meta(ge=1, le=86_400)] = SILENCE
    """A running job of which nothing is reported for longer has failed."""
    data: dict[str, Any] = {}
    """The submitter's own, for the program that does the work."""


EXTERNAL = Kind(name="external", title="Work elsewhere", params=External, queue="", time_limit=7 * 24 * 3600)
