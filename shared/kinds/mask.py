"""Takes the values of secrets out of texts, by what they are and not by where: a handler may print one by accident."""

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import msgspec

from shared.kinds.secret import HIDDEN

SHORTEST = 4
"""Characters. A shorter value is in every other word: hiding it would hide the words, and tell where it is not."""

SHORTEST_LINE = 8
"""Characters of one line of a secret of several lines, such as a key file, that is looked for by itself."""

LONGEST = 128
"""Characters. What is longer is looked for in pieces of this length: so the time that a search takes has a bound."""

MOST_PARTS = 1000
"""Values, lines and pieces of values that one job may have: each is looked for in whatever its handler says."""

_SHORT = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_MORE = {
    " ": (r"\+",),
    "&": ("&amp;",),
    "<": ("&lt;",),
    ">": ("&gt;",),
    '"': ("&quot;", "&#34;"),
    "'": ("&#39;", "&#x27;"),
}
_LATIN = 256
_PLAIN = re.compile("[A-Za-z0-9]+")
_BASE64 = {"+": r"(?:[+-]|%2[Bb])", "/": r"(?:[/_]|%2[Ff])"}
_BASE64_ANY = r"(?:[A-Za-z0-9+/_-]|%2[BbFf])?"


class Mask:
    """Call it with a text. False where there is nothing to look for.

    A value is found as it is; as JSON, Python's `repr`, HTML and URLs write it, also several times over; and in base64
    (either alphabet, at any place in what was encoded) or hexadecimal. Not found: any other coding, a part of it, and
    one that is spread over two texts.
    """

    def __init__(self, values: Iterable[str]) -> None:
        values = {value for value in values if len(value) >= SHORTEST}
        self._forms = [_Form(part, partial(_pattern, part)) for part in parts(values)]
        self._forms += [form for value in values for form in _coded(value)]

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __call__(self, text: str) -> str:
        spans = sorted(span for form in self._forms for span in form.spans(text))
        pieces: list[str] = []
        done = 0
        for start, end in spans:
            if start > done or not pieces:
                pieces += [text[done:start], HIDDEN]
            done = max(done, end)
        return "".join(pieces) + text[done:]

    def json(self, encoded: bytes) -> bytes:
        """JSON, masked in all its texts, and where a number is the secret."""
        if not self:
            return encoded
        value = msgspec.json.decode(encoded)
        masked = self._value(value)
        return encoded if masked == value else msgspec.json.encode(masked)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self(name): self._value(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._value(inner) for inner in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return HIDDEN if self(str(value)) == HIDDEN else value
        return value


class _Form:
    """One way to write a value. Most texts hold none, so what it costs to find it out is what counts."""

    def __init__(self, example: str, pattern: Callable[[], str]) -> None:
        # the longest piece that is written the same whatever is escaped; looked for first, as it takes next to no time
        self._anchor = max(_PLAIN.findall(example), key=len, default="")
        self._pattern = pattern
        self._find: re.Pattern[str] | None = None

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Also those that overlap: or the rest of one would be left."""
        if self._anchor not in text:
            return
        if self._find is None:
            self._find = re.compile(f"(?=({self._pattern()}))")
        yield from (match.span(1) for match in self._find.finditer(text))


def parts(values: Iterable[str]) -> set[str]:
    """What is looked for: the values, and the lines of those that have several."""
    found = set()
    for value in values:
        text = value.strip()
        if len(text) >= SHORTEST:
            found.update(_pieces(text))
        lines = [line.strip() for line in text.splitlines()]
        if len(lines) > 1:
            found.update(piece for line in lines if len(line) >= SHORTEST_LINE for piece in _pieces(line))
    return found


def _pieces(text: str) -> list[str]:
    """They meet or overlap, so that what is found of a whole text is whole again."""
    last = max(0, len(text) - LONGEST)
    return [text[place : place + LONGEST] for place in (*range(0, last, LONGEST), last)]


def _pattern(text: str) -> str:
    """Each character by itself may be escaped: functions that quote do not agree on which have to be."""
    # runs of backslashes as one, and possessive: a text of nothing but backslashes must not take for ever
    pieces = re.findall(r"\\+|[^\\]", text, re.DOTALL)
    pattern, after = "", False
    for piece in pieces:
        # a find begins with the whole run, or each of its backslashes would be tried, and each time to the run's end
        begin = "" if pattern else r"(?<!\\)"
        if piece[0] == "\\":
            pattern += _backslashes(len(piece), begin)
        else:
            pattern += _character(piece, begin, after_backslashes=after)
        after = piece[0] == "\\"
    return pattern


def _backslashes(count: int, begin: str) -> str:
    return rf"(?:{begin}\\{{{count},}}+|(?i:%(?:25)*+5c){{{count}}})"


def _character(character: str, begin: str, *, after_backslashes: bool) -> str:
    """All ways in which it is written. `after_backslashes`: these have taken in those of its escape, too."""
    if character.isascii() and character.isalnum():
        return character
    encoded = character.encode(errors="replace")
    # what comes after a backslash, or several: it may have been escaped more than once
    utf16 = character.encode("utf-16-be", errors="replace")
    escapes = {
        _SHORT.get(character, re.escape(character)),
        rf"(?i:U{ord(character):08x})",
        r"\\++".join(f"(?i:u{utf16[place : place + 2].hex()})" for place in range(0, len(utf16), 2)),
        r"\\++".join(f"(?i:x{byte:02x})" for byte in encoded),
        *([f"(?i:x{ord(character):02x})"] if ord(character) < _LATIN else []),
    }
    first = rf"{begin}\\++"
    if after_backslashes:
        first = r"\\*+"
        escapes.discard(re.escape(character))  # two ways to find the same would be tried in all combinations
    urls = "%(?:25)++" if character == "%" else "".join(f"(?i:%(?:25)*+{byte:02x})" for byte in encoded)
    ways = [re.escape(character), *(f"{first}{escape}" for escape in sorted(escapes)), urls]
    return f"(?:{'|'.join([*ways, *_MORE.get(character, ())])})"


def _coded(value: str) -> Iterator[_Form]:
    data = value.encode(errors="replace")
    for digits in (*_pieces(data.hex()), *_pieces(data.hex().upper())):
        yield _Form(digits, partial(str, digits))
    for shift in range(3):  # where it begins in a group of three bytes
        bits = 8 * (shift + len(data))
        text = base64.b64encode(b"\0" * shift + data).decode()[(0, 2, 3)[shift] : bits // 6]
        pieces = _pieces(text)
        for number, piece in enumerate(pieces, start=1):
            before, after = shift > 0 and number == 1, bits % 6 > 0 and number == len(pieces)
            yield _Form(piece, partial(_base64, piece, before=before, after=after))


def _base64(text: str, *, before: bool, after: bool) -> str:
    """`before` and `after`: the characters there hold bits of the value, and of what stands beside it."""
    body = "".join(_BASE64.get(character, character) for character in text)
    return f"{_BASE64_ANY if before else ''}{body}{_BASE64_ANY if after else ''}(?:=|%3[Dd]){{0,2}}"
