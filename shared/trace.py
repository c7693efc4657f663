"""A place in a trace, as W3C's "Trace Context" writes it: what the request, the job and the frame that follow from one
another hand on.
"""

import re
from contextvars import ContextVar

from msgspec import Struct

LONGEST_STATE = 512
"""Characters of a `tracestate`; a longer one is left out."""

_MOST_MEMBERS = 32

_PARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<ids>[0-9a-f]{32}-[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_FIRST = "00"
_NONE = {"ff"}
_ZERO_TRACE, _ZERO_SPAN = "0" * 32 + "-", "-" + "0" * 16

_LONGEST_PARENT = 256
"""Characters that are looked at: a later version may be longer than ours."""

_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class Trace(Struct, frozen=True):
    """`parent` is a valid `traceparent` of version 00, `state` a valid `tracestate` or empty."""

    parent: str
    state: str = ""

    @property
    def id(self) -> str:
        return self.parent[3:35]

    @property
    def span_id(self) -> str:
        return self.parent[36:52]

    @property
    def flags(self) -> int:
        return int(self.parent[53:], 16)

    @property
    def sampled(self) -> bool:
        """Whoever began it wants it to be recorded."""
        return bool(self.flags & 1)


CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""Where what is done now belongs: in a request, or in the thread of a handler."""


def read_trace(parent: str, state: str = "") -> Trace | None:
    """What the two headers say. None if the first is not valid; the second is left out if it is not."""
    found = _PARENT.fullmatch(parent) if len(parent) <= _LONGEST_PARENT else None
    if found is None or found["version"] in _NONE or (found["version"] == _FIRST and found["more"]):
        return None
    ids, flags = found["ids"], int(found["flags"], 16)
    if ids.startswith(_ZERO_TRACE) or ids.endswith(_ZERO_SPAN):
        return None
    return Trace(f"{_FIRST}-{ids}-{flags & 3:02x}", _checked(state))


def known_trace(parent: str | None, state: str | None = None) -> Trace | None:
    """What was stored or sent by one of us; None: nothing was."""
    return read_trace(parent, state or "") if parent else None


def trace_environment() -> dict[str, str]:
    """Where what is done now belongs, for a program that is started: its variables, none outside of a trace."""
    trace = CURRENT.get()
    if trace is None:
        return {}
    return {"TRACEPARENT": trace.parent} | ({"TRACESTATE": trace.state} if trace.state else {})


def _checked(state: str) -> str:
    """It, if it may be handed on."""
    if not state or len(state) > LONGEST_STATE:
        return ""
    members = [member.strip(" \t") for member in state.split(",")]
    members = [member for member in members if member]
    names = {member.partition("=")[0] for member in members}
    good = len(names) == len(members) <= _MOST_MEMBERS and all(map(_MEMBER.fullmatch, members))
    return ",".join(members) if good else ""
