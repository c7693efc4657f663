"""Golden examples: what goes over the wire, in tests/wire/*.json, with what must vary replaced by what does not."""

import difflib
import json
import re
from pathlib import Path
from typing import Any

from shared.event_ids import parse_event_id

WIRE = Path(__file__).parents[1] / "wire"

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_TICKET = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
_ETAG = re.compile(r'"[0-9a-f]{32}"')


class Normal:
    """Makes two runs of one story alike.

    An id becomes a number, by its first appearance; a version its rank among those that appeared; a time, a ticket, a
    cursor, an ETag, a timestamp and an estimate are all the same one. In an event id, epoch and check are too.
    """

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def __call__(self, value: Any) -> Any:
        versions = sorted(_versions(value))
        return self._replaced(value, {version: rank for rank, version in enumerate(versions, start=1)})

    def _replaced(self, value: Any, ranks: dict[int, int]) -> Any:
        if isinstance(value, list):
            return [self._replaced(inner, ranks) for inner in value]
        if isinstance(value, dict):
            return {name: self._field(name, inner, ranks) for name, inner in value.items()}
        return self._text(value, ranks) if isinstance(value, str) else value

    def _field(self, name: str, value: Any, ranks: dict[int, int]) -> Any:
        if name == "version" and value in ranks:
            return ranks[value]
        if name == "timestamp":
            return 1767225600000
        if name == "nextCursor" and value is not None:
            return "CURSOR"
        if name in {"etaSeconds", "etaLow", "etaHigh"} and value is not None:
            return 1.0
        return self._replaced(value, ranks)

    def _text(self, text: str, ranks: dict[int, int]) -> str:
        if event_id := parse_event_id(text):
            version = ranks.get(event_id.version, 0)
            filters = text.rpartition("-")[2]
            return f"0badcafe-12ab-{version}-{filters}"
        text = _TICKET.sub("TICKET", text)
        text = _TIME.sub("2026-01-01T00:00:00.000Z", text)
        text = _ETAG.sub('"ETAG"', text)
        return _ID.sub(lambda found: self._number(found[0]), text)

    def _number(self, id_: str) -> str:
        return self._ids.setdefault(id_, f"00000000-0000-7000-8000-{len(self._ids) + 1:012}")


def _versions(value: Any) -> set[int]:
    if isinstance(value, list):
        return {version for inner in value for version in _versions(inner)}
    if isinstance(value, dict):
        found = {version for inner in value.values() for version in _versions(inner)}
        return found | ({value["version"]} if isinstance(value.get("version"), int) else set())
    event_id = parse_event_id(value) if isinstance(value, str) else None
    return {event_id.version} if event_id and event_id.version else set()


def golden(name: str) -> Any:
    return json.loads((WIRE / name).read_text())


def compare(name: str, recorded: Any, *, rewrite: bool) -> None:
    """`recorded` is what the file of this name says. With `pytest --rewrite-wire` the file says it from then on."""
    text = json.dumps(recorded, indent=2, ensure_ascii=False) + "\n"
    if rewrite:
        (WIRE / name).write_text(text)
    golden_text = (WIRE / name).read_text()
    difference = difflib.unified_diff(
        golden_text.splitlines(), text.splitlines(), name, "as it is now", lineterm="", n=8
    )
    assert text == golden_text, "\n".join(difference)
