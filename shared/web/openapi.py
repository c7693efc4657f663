"""An OpenAPI 3.1 document out of a table of operations and the very structs that requests and replies are."""

import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, get_origin

import msgspec
from msgspec import UNSET, Struct, inspect

from shared.errors import (
    AddressTooLong,
    HeadersTooLarge,
    HeadwayError,
    Malformed,
    MethodNotAllowed,
    Problem,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    all_errors,
    problem_type,
)

Json = dict[str, Any]
Content = Mapping[str, Any]
"""For each media type a JSON Schema, in which a type stands for the schema of that type."""

_REFERENCE = "#/components/schemas/{name}"
_ID = {"type": "string", "format": "uuid"}
_NONE: Content = {}

_ALWAYS = (Malformed, AddressTooLong, HeadersTooLarge, HeadwayError)
"""What any request may end in: the server looks at it before the application does, and may be wrong itself."""

_HEADERS: dict[str, Json] = {
    "Allow": {"description": "The methods that the address takes.", "schema": {"type": "string"}},
    "Content-Disposition": {"description": "Proposes a file name.", "schema": {"type": "string"}},
    "ETag": {"description": "For `If-None-Match`.", "schema": {"type": "string"}},
    "Location": {"description": "Where it is now.", "schema": {"type": "string", "format": "uri-reference"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}},
    "WWW-Authenticate": {"description": "What is needed.", "schema": {"type": "string", "const": "Bearer"}},
}
_WITH_ERRORS: dict[type[HeadwayError], str] = {
    MethodNotAllowed: "Allow",
    TooManyRequests: "Retry-After",
    Unauthenticated: "WWW-Authenticate",
    Unavailable: "Retry-After",
}

_SECURITY: dict[str, Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A user's token."},
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "For reading one batch, where no header can be sent. Without an `Authorization` header only.",
    },
}


class Parameter(Struct, frozen=True):
    """A header that is read."""

    name: str
    what: str
    schema: Json


class Reply(Struct, frozen=True):
    status: int
    what: str
    content: Content = _NONE
    headers: tuple[str, ...] = ()
    headers_of_some: tuple[str, ...] = ()
    """Not in all replies of that status."""


class Operation(Struct, frozen=True):
    """`path` names its variables: `{id}` is a UUID, others stand in `variables`. `scope` None: for everybody."""

    method: str
    path: str
    name: str
    summary: str
    tag: str
    replies: tuple[Reply, ...]
    errors: tuple[type[HeadwayError], ...] = ()
    """Those besides what may happen to any request."""
    scope: str | None = None
    by_ticket: bool = False
    query: type[Struct] | None = None
    variables: Mapping[str, Json] = {}
    headers: tuple[Parameter, ...] = ()
    body: Content = _NONE
    body_needed: bool = True


def document(operations: Iterable[Operation], **info: str) -> Json:
    """What `/openapi.json` says. Raises ValueError for two operations of one address or name."""
    operations = tuple(operations)
    schemas = _input_schemas(operations) | _output_schemas(operations)
    paths: Json = {}
    names: set[str] = set()
    for operation in operations:
        methods = paths.setdefault(operation.path, {})
        if operation.method.lower() in methods or operation.name in names:
            raise ValueError(f"{operation.method} {operation.path} ({operation.name}) stands there twice")
        names.add(operation.name)
        methods[operation.method.lower()] = _operation(operation)
    said = {
        "openapi": "3.1.0",
        "info": info,
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": {error.code: _problem(error) for error in all_errors()},
            "securitySchemes": _SECURITY,
        },
    }
    _name_types(said)
    return said


def _name_types(said: Any) -> None:
    """Of enumerations: clients that are generated make something of it, and pages show it."""
    if isinstance(said, dict):
        values = said.get("enum")
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            said.setdefault("type", "string")
        said = list(said.values())
    for inner in said if isinstance(said, list) else ():
        _name_types(inner)


def _operation(operation: Operation) -> Json:
    said: Json = {"operationId": operation.name, "summary": operation.summary, "tags": [operation.tag]}
    if parameters := [*_variables(operation), *_query(operation), *map(_header, operation.headers)]:
        said["parameters"] = parameters
    if operation.body:
        said["requestBody"] = {"required": operation.body_needed, "content": _content(operation.body)}
    errors = [error for error in all_errors() if error in {*_ALWAYS, *operation.errors}]
    responses = {str(reply.status): _reply(reply) for reply in operation.replies}
    said["responses"] = responses | {
        str(error.status): {"$ref": f"#/components/responses/{error.code}"} for error in errors
    }
    if operation.scope is not None:
        ticket: list[Json] = [{"ticket": []}] if operation.by_ticket else []
        said["security"] = [{"bearer": [operation.scope]}, *ticket]
    return said


def _variables(operation: Operation) -> Iterator[Json]:
    for name in re.findall(r"\{(\w+)\}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": operation.variables.get(name, _ID)}


def _query(operation: Operation) -> Iterator[Json]:
    if operation.query is None:
        return
    (_, schemas) = msgspec.json.schema_components([operation.query], ref_template=_REFERENCE)
    schema = schemas[operation.query.__name__]
    for name, given in schema["properties"].items():
        if operation.by_ticket and name == _SECURITY["ticket"]["name"]:
            continue
        inner = _without_null(given)
        what = {"description": inner.pop("description")} if "description" in inner else {}
        yield {"name": name, "in": "query", "required": name in schema["required"], **what, "schema": inner}


def _header(header: Parameter) -> Json:
    return {"name": header.name, "in": "header", "description": header.what, "schema": header.schema}


def _reply(reply: Reply) -> Json:
    said: Json = {"description": reply.what}
    if reply.headers or reply.headers_of_some:
        said["headers"] = {
            name: {**_HEADERS[name], "required": name in reply.headers}
            for name in (*reply.headers, *reply.headers_of_some)
        }
    if reply.content:
        said["content"] = _content(reply.content)
    return said


def _problem(error: type[HeadwayError]) -> Json:
    fixed = {"type": problem_type(error), "title": error.title, "status": error.status}
    schema: Json = {
        "allOf": [{"$ref": _REFERENCE.format(name=Problem.__name__)}],
        "properties": {name: {"const": value} for name, value in fixed.items()},
    }
    if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        schema["required"] = ["errors"]
    header = _WITH_ERRORS.get(error)
    return _reply(
        Reply(
            error.status,
            f"{error.title}: {error.when}.",
            {"application/problem+json": schema},
            () if header is None else (header,),
        )
    )


def _content(content: Content) -> Json:
    return {media_type: {"schema": _resolved(schema)} for media_type, schema in content.items()}


def _resolved(schema: Any) -> Any:
    """The schema with references for the types in it."""
    if isinstance(schema, Mapping):
        return {name: _resolved(value) for name, value in schema.items()}
    if isinstance(schema, list):
        return [_resolved(value) for value in schema]
    if schema is None or isinstance(schema, str | int | float):
        return schema
    ((reference,), _) = msgspec.json.schema_components([schema], ref_template=_REFERENCE)
    return reference


def _types(schema: Any) -> Iterator[Any]:
    """The types in it."""
    if isinstance(schema, Mapping | list):
        for value in schema.values() if isinstance(schema, Mapping) else schema:
            yield from _types(value)
    elif schema is not None and not isinstance(schema, str | int | float):
        yield schema


def _input_schemas(operations: Iterable[Operation]) -> Json:
    types = [type_ for operation in operations for type_ in _types(operation.body)]
    types += [operation.query for operation in operations if operation.query is not None]
    (_, schemas) = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    queries = {operation.query.__name__ for operation in operations if operation.query is not None}
    return {name: schema for name, schema in schemas.items() if name not in queries}


def _output_schemas(operations: Iterable[Operation]) -> Json:
    """As they are written: a field with a default is there all the same, or else left out whenever it has that. What is
    UNSET is always left out.
    """
    replies = (reply for operation in operations for reply in operation.replies)
    types = [Problem, *(type_ for reply in replies for type_ in _types(reply.content))]
    (_, schemas) = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    structs = _structs(types)
    omitting = {cls.__name__ for cls in structs if cls.__struct_config__.omit_defaults}
    unset = {
        (cls.__name__, field.encode_name)
        for cls in structs
        for field in msgspec.structs.fields(cls)
        if field.default is UNSET
    }
    for name, schema in schemas.items():
        properties = schema.get("properties", {})
        for field, given in properties.items():
            if name in omitting and given.pop("default", ...) is None:
                properties[field] = _without_null(given)
            given.pop("default", None)
        if properties and name not in omitting:
            schema["required"] = [field for field in properties if (name, field) not in unset]
    return schemas


def _without_null(schema: Json) -> Json:
    """For what is not there instead of being null."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf" and (name, value) != ("default", None)}
    return {**options[0], **rest} if len(options) == 1 else {**schema}


def _structs(types: Iterable[Any]) -> set[type[Struct]]:
    found: set[type[Struct]] = set()

    def look(node: Any) -> None:
        if isinstance(node, inspect.StructType):
            cls = get_origin(node.cls) or node.cls
            if cls in found:
                return
            found.add(cls)
        if isinstance(node, tuple | list):
            for inner in node:
                look(inner)
        elif isinstance(node, inspect.Type | inspect.Field):
            for name in node.__struct_fields__:
                look(getattr(node, name))

    look(inspect.multi_type_info(types))
    return found
