"""Texts that somebody's program wrote, made into what may be stored."""

import re
from collections.abc import Callable

TEXT_MAX = 500
"""Bytes of a step's name and of a message."""

ERROR_MAX = 2000
"""Bytes of an error's message."""

_CUT = " … (cut)"

# The escape of a NUL, unless its backslash is itself escaped.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def clean(text: str, limit: int, mask: Callable[[str], str] = str) -> str:
    """What PostgreSQL can store: valid UTF-8 without NUL, at most `limit` bytes, with a mark where it was cut."""
    text = str(text).replace("\0", "").encode(errors="replace").decode()
    data = mask(text).encode()  # before the cut, which could leave half of a secret
    if len(data) > limit:
        data = data[: limit - len(_CUT.encode())]
        return data.decode(errors="ignore") + _CUT
    return data.decode()


def last_line(max_lines: int) -> str:
    """What the `max_lines`-th line of a job says, whatever it was to say."""
    return f"no more than {max_lines} log lines are kept for a job; this is the last"


def holds_nul(data: bytes) -> bool:
    """Whether this JSON has a string with a NUL character, the one that PostgreSQL cannot store."""
    return _NUL.search(data) is not None
