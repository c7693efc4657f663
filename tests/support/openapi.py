"""Replies and events against the OpenAPI document, more strictly than it asks: with no field that it does not name."""

import copy
import json
from functools import cache
from typing import Any

import httpx
import jsonschema_rs

from services.api.openapi import DOCUMENT

OPENAPI: dict[str, Any] = json.loads(DOCUMENT)


def _closed(schema: Any) -> Any:
    """Objects whose fields are named have no others."""
    if isinstance(schema, list):
        return [_closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(inner) for name, inner in schema.items()}
    if "properties" in schema and "allOf" not in schema:
        closed.setdefault("additionalProperties", False)
    return closed


_COMPONENTS = {"schemas": _closed(copy.deepcopy(OPENAPI["components"]["schemas"]))}


@cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({**json.loads(schema), "components": _COMPONENTS}, validate_formats=True)


def validate(value: Any, schema: dict[str, Any]) -> None:
    """Fails with what is wrong."""
    _validator(json.dumps(schema)).validate(value)


def validate_component(value: Any, name: str) -> None:
    validate(value, {"$ref": f"#/components/schemas/{name}"})


def described(method: str, path: str) -> dict[str, Any]:
    operation: dict[str, Any] = OPENAPI["paths"][path][method.lower()]
    return operation


def reply_described(method: str, path: str, status: int) -> dict[str, Any]:
    """What the document says of that reply."""
    replies = described(method, path)["responses"]
    assert str(status) in replies, f"{method} {path} does not say that it may answer {status}"
    reply: dict[str, Any] = replies[str(status)]
    if "$ref" in reply:
        reply = OPENAPI["components"]["responses"][reply["$ref"].rpartition("/")[2]]
    return reply


def check_reply(method: str, path: str, reply: httpx.Response) -> None:
    """Status, headers, content type and content are what the document says."""
    said = reply_described(method, path, reply.status_code)
    for header, about in said.get("headers", {}).items():
        assert header in reply.headers or not about["required"], f"{method} {path}: no {header}"
    content = said.get("content", {})
    if not content:
        assert not reply.content
        return
    kind = reply.headers["content-type"].partition(";")[0]
    assert kind in content or "*/*" in content, f"{method} {path}: {kind}"
    if kind.endswith("json") and method != "HEAD":
        validate(reply.json(), content[kind]["schema"])
