"""docs/security.md against the code: the numbers that it gives are the ones in use."""

from pathlib import Path

from msgspec.structs import fields

from services.stream import census
from shared import auth, keys
from shared.settings import Settings
from shared.web import origins, protocol

DOCUMENT = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
OWNER_VIEWERS = next(field.default for field in fields(Settings) if field.name == "owner_viewers")
FLAT = " ".join(DOCUMENT.split())

SENTENCES = [
    f"`nbf`, if it is given, may be up to {auth.NOT_BEFORE_LEEWAY} s ahead",
    f"It has {keys.PATIENCE:.0f} s and {keys.LONGEST // 1024} KiB, and its first {keys.MOST} keys count",
    f"after {keys.FRESH / 60:.0f} minutes | the next request has the document fetched again",
    f"after {keys.OLD / 60:.0f} minutes without a request",
    f"every {keys.PAUSE:.0f} s at most",
    f"known keys are good for {keys.STALE / 3600:.0f} hours",
    f"an address with its query | {protocol.LONGEST_ADDRESS // 1024} KiB | 414",
    f"{protocol.LONGEST_HEADERS // 1024} KiB, {protocol.MOST_HEADERS} of them | 431",
    f"a request's first line and headers | {protocol.HEAD_SECONDS:.0f} s",
    f"silence within a body | {protocol.BODY_SECONDS:.0f} s",
    f"It is good for {auth.REPORT_TOKEN_TTL / 86400:.0f} days",
    f"and {auth.REPORT_TOKEN_TTL / 86400:.0f} days later the last old report token",
    f"let in after {census._PATIENCE * 1000:.0f} ms without an answer",
    f"`HEADWAY_OWNER_VIEWERS` streams open ({OWNER_VIEWERS:,})",
]


def test_its_numbers_are_the_ones_in_use() -> None:
    for sentence in SENTENCES:
        assert sentence in FLAT, sentence


def test_it_names_every_header_and_scope() -> None:
    for header in (*origins.ACCEPTED.split(", "), *origins.EXPOSED.split(", ")):
        assert f"`{header}`" in DOCUMENT, header
    for scope in auth.SCOPES:
        assert f"| `{scope}` |" in DOCUMENT, scope
