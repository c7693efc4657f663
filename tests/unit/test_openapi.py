"""The OpenAPI document against the applications' routes and against docs/protocol.md, both ways."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar

from services.api.app import create_app as create_api
from services.api.openapi import DOCUMENT, OPERATIONS
from services.stream.app import create_app as create_stream
from shared.errors import all_errors
from shared.kinds.rehearsal import REHEARSAL
from shared.settings import Settings
from shared.web.metrics import ADDRESS as METRICS
from shared.web.openapi import document

PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
OPENAPI = json.loads(DOCUMENT)
SCHEMAS: dict[str, Any] = OPENAPI["components"]["schemas"]

SETTINGS = Settings(
    database_url="postgresql://nowhere/x",
    redis_url="redis://nowhere/0",
    secret="a secret for tests, of 32 bytes or more",  # noqa: S106  # it protects nothing
    ticket_key="a ticket key for tests, of 32 bytes or more",
)

PAGES = {operation.path for operation in OPERATIONS if operation.tag == "Pages"}
"""They are for people, and docs/protocol.md names them in words."""

PAGING = {"limit", "cursor"}
"""Of every list, and told of once."""


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in OPENAPI["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def routed(app: Litestar) -> set[tuple[str, str]]:
    """But for OPTIONS, which every address takes."""
    paths = {
        re.sub(
            r"\{\w+:uuid\}", "{id}", re.sub(r"\{(\w+):(?:str|path)\}|\{(artifact)_id:uuid\}", r"{\1\2}", route.path)
        ): route
        for route in app.routes
    }
    return {
        (method, path) for path, route in paths.items() for method in getattr(route, "methods", set()) - {"OPTIONS"}
    }


def test_every_route_is_in_the_document_and_nothing_else_is() -> None:
    described = {(method, path) for method, path, _ in operations()}
    numbers = {("GET", METRICS)}  # no gateway publishes them
    assert (routed(create_api(SETTINGS)) | routed(create_stream(SETTINGS))) - numbers == described


def test_every_error_has_its_reply_and_what_is_no_secret_is_open() -> None:
    assert list(OPENAPI["components"]["responses"]) == [error.code for error in all_errors()]
    for method, path, operation in operations():
        codes = {reply["$ref"].rpartition("/")[2] for reply in operation["responses"].values() if "$ref" in reply}
        assert {"malformed", "address_too_long", "headers_too_large", "internal"} <= codes
        assert ("security" in operation) == path.startswith("/api/"), (method, path)
        assert ({"unauthenticated", "forbidden", "unavailable"} <= codes) == path.startswith("/api/"), (method, path)
        assert ("not_found" in codes) == ("{" in path), (method, path)


def test_two_operations_of_one_address_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        document([OPERATIONS[0], OPERATIONS[0]], title="x", version="1")


def test_replies_say_that_what_is_always_there_is_required() -> None:
    assert SCHEMAS["Attempt"]["required"] == ["attempt", "startedAt", "finishedAt", "error"]
    assert SCHEMAS["Counts"]["required"] == ["queued", "processing", "completed", "failed", "cancelled", "total"]
    # left out instead of being null
    assert SCHEMAS["Problem"]["required"] == ["type", "title", "status", "detail"]
    assert SCHEMAS["Problem"]["properties"]["errors"]["type"] == "array"
    assert SCHEMAS["Rehearsal"]["required"] == []


def test_a_batch_to_create_is_described_with_the_params_of_its_kind() -> None:
    body = SCHEMAS["RehearsalBatch"]
    assert body["properties"]["kind"] == {"type": "string", "enum": [REHEARSAL.name]}
    assert body["properties"]["jobs"]["items"] == {"$ref": "#/components/schemas/RehearsalJob"}
    assert SCHEMAS["RehearsalJob"]["properties"]["params"] == {"$ref": "#/components/schemas/Rehearsal"}
    assert body["required"] == ["title", "kind"]
    # without `jobs` only one that is open to them
    either = OPENAPI["paths"]["/api/batches"]["post"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert [option["required"] for option in either] == [["jobs"], ["open"]]


# --- docs/protocol.md


def told() -> dict[tuple[str, str], set[str]]:
    """Every operation that docs/protocol.md names, with the query parameters that it gives it.

    They stand in the address (`?status=&kind=`) or in a table of parameters under it; a dot adds another last word:
    `POST /api/batches/{id}/cancel` · `pause`.
    """
    found: dict[tuple[str, str], set[str]] = {}
    last: set[str] = set()
    table = False
    for line in PROTOCOL.split("\n"):
        table = line.startswith("|") and (table or line.startswith("| parameter |"))
        if table and (name := re.match(r"\| `(\w+)` \|", line)):
            last.add(name[1])
        for method, path, query, more in re.findall(
            r"`(GET|POST|DELETE|HEAD|PUT|PATCH) (/[^`?]*)(?:\?([^`]*))?`((?: · `[\w-]+`)*)", line
        ):
            ends = [path, *(path.rpartition("/")[0] + "/" + end for end in re.findall(r"`([\w-]+)`", more))]
            for end in ends:
                last = found.setdefault((method, end), set())
                last |= {part.partition("=")[0] for part in query.split("&") if part}
    return found


def test_the_protocol_names_every_operation_and_its_parameters_and_no_others() -> None:
    described = {
        (method, path): {
            parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"
        }
        - PAGING
        | ({"ticket"} if {"ticket": []} in operation.get("security", []) else set())
        for method, path, operation in operations()
        if path not in PAGES and method != "HEAD"
    }
    named = {operation: parameters for operation, parameters in told().items() if operation[1] not in PAGES}
    assert named == described


def test_the_protocol_names_every_page() -> None:
    for path in PAGES:
        assert f"{path.partition('{')[0]}" in PROTOCOL, path


def objects(text: str) -> Iterator[set[str]]:
    """The names of the fields of each object that the text shows, as JSON or, without values, as `{"a", "b"}`."""
    open_: list[set[str]] = []
    for token in re.finditer(r'[{}\[]|"(\w+)"(?=\s*[:,}])|"[^"]*"', text):
        if token[0] == "{":
            open_.append(set())
        elif token[0] == "}" and open_:
            if shown := open_.pop():
                yield shown
        elif token[1] is not None and open_ and _names(text, token):
            open_[-1].add(token[1])


def _names(text: str, token: re.Match[str]) -> bool:
    """Whether it is a field's name, and not its value."""
    return not text[: token.start()].rstrip().endswith(":")


def test_every_object_that_the_protocol_shows_is_one_of_the_document() -> None:
    shown = [names for names in objects(PROTOCOL) if names]
    assert len(shown) > 20
    for names in shown:
        fits = [
            name
            for name, schema in SCHEMAS.items()
            if set(schema.get("required", ())) <= names <= set(schema.get("properties", ()))
        ]
        assert fits, names


def test_every_field_of_the_document_is_named_by_the_protocol() -> None:
    named = set(re.findall(r'["`](\w+)["`]', PROTOCOL))
    for name, schema in SCHEMAS.items():
        assert set(schema.get("properties", ())) <= named, name


def test_every_value_of_an_enumeration_is_named_by_the_protocol() -> None:
    def values(schema: Any) -> Iterator[str]:
        if isinstance(schema, dict):
            yield from schema.get("enum", ())
            for inner in schema.values():
                yield from values(inner)
        elif isinstance(schema, list):
            for inner in schema:
                yield from values(inner)

    named = set(re.findall(r"[`\"]([\w.]+)[`\"]", PROTOCOL))
    assert {value for value in values(SCHEMAS) if isinstance(value, str)} <= named
