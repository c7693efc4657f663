"""Log lines as text, one line each, for people, `grep` and `less`."""

import re
from typing import Any, NamedTuple

from shared.events import stamp

# A terminal's colours are left out. Whatever else a terminal obeys, or an editor takes for the end of a line, is shown
# as a symbol: nothing that a job wrote moves a reader's cursor, and no line of it can pass for another's.
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_SYMBOLS = {code: 0x2400 + code for code in range(0x20) if code != ord("\t")}
_SYMBOLS |= {0x7F: 0x2421} | dict.fromkeys([*range(0x80, 0xA0), 0x2028, 0x2029], 0xFFFD)


class Name(NamedTuple):
    """What a job is called: its position, and the name that it was given."""

    position: int
    name: str


def transcribe(row: Any, job: Name) -> str:
    """Time, level, position and name of the job, attempt, text; and a line feed."""
    head = f"{stamp(row.at)} {row.level:<7} #{job.position} {harmless(job.name)} (attempt {row.attempt}): "
    return f"{head}{harmless(row.text)}\n"


def harmless(text: str) -> str:
    if text.isprintable():
        return text
    return _COLOUR.sub("", text).translate(_SYMBOLS)
