"""Input against a type: converted at once when it is right; when it is not, every wrong field is named."""

import re
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct, ValidationError

from shared.errors import FieldError, Invalid
from shared.kinds.mask import Mask
from shared.kinds.secret import HIDDEN, is_secret, secret_values

T = TypeVar("T")

MOST_ERRORS = 100
"""The most errors of one reply: enough to see what is wrong, short enough to be read."""

DEEPEST = 64
"""Levels of nesting in free-form values. What is stored must be readable again, wherever the reader's stack stands."""

LONGEST_KEY = 100
"""Characters of a client's own field name that a path repeats."""

_NAMES = {"int": "integer", "float": "number", "str": "string", "bool": "true or false"}
_WHERE = re.compile(r" - at `\$(.*)`$", re.DOTALL)
_TYPE = re.compile(r"`([^`]*)`")
_REPEATS = re.compile(r"^Invalid (enum )?value |^Object contains unknown field ", re.DOTALL)
"""What msgspec says that holds a part of the value."""


def convert(value: Any, type_: type[T], *, path: str = "", strict: bool = True) -> T:
    """`value` (what JSON decodes to) as `type_`. Raises Invalid. Not `strict`: strings may stand for numbers."""
    try:
        return msgspec.convert(value, type_, strict=strict)
    except ValidationError as error:
        raise invalid(explain(error, value, type_, path, strict=strict)) from None


def explain(error: ValidationError, value: Any, type_: Any, path: str, *, strict: bool = True) -> list[FieldError]:
    """The wrong fields of a `value` that msgspec refused with `error`, which names the first only.

    No message repeats a value; secrets are also taken out of what a type's own rules say.
    """
    errors = list(islice(wrong_fields(value, type_, path, strict=strict), MOST_ERRORS + 1))
    errors = errors or [_field_error(path, error)]  # a type's own rule across its fields shows in none of them
    mask = Mask(secret_values(value, type_))
    return [FieldError(error.path, mask(error.message)) for error in errors] if mask else errors


def invalid(errors: list[FieldError]) -> Invalid:
    """The error for all of these, or for as many as one reply holds."""
    if len(errors) <= MOST_ERRORS:
        return Invalid(errors=errors)
    return Invalid(f"Many fields are wrong; here are the first {MOST_ERRORS}", errors=errors[:MOST_ERRORS])


def wrong_fields(value: Any, type_: Any, path: str, *, strict: bool = True) -> Iterator[FieldError]:
    """Everything that is wrong with `value`, one error a field; of a secret only that it is wrong, not where in it."""
    if is_secret(type_):
        yield from (FieldError(path, error.message) for error in _wrong_leaf(value, type_, path, strict=strict))
        return
    if inner := _looked_into(type_, value):
        if isinstance(inner, type) and issubclass(inner, Struct):
            yield from _wrong_in_struct(value, inner, path, strict=strict)
            return
        origin, arguments = get_origin(inner), get_args(inner)
        if origin is dict:
            hidden = is_secret(arguments[0])
            for name, item in value.items():
                where = join(path, HIDDEN if hidden else name)
                yield from wrong_fields(item, arguments[1], where, strict=strict)
        else:
            for number, item in enumerate(value):
                yield from wrong_fields(item, arguments[0], f"{path}[{number}]", strict=strict)
        # its own constraints; what is wrong inside has been said
        if (bounds := _bounds(type_)) is not None:
            yield from _wrong_leaf(value, Annotated[origin, bounds], path, strict=strict)
        return
    yield from _wrong_leaf(value, type_, path, strict=strict)


def unstorable(value: Any, path: str, depth: int = 0) -> Iterator[FieldError]:
    """What JSON allows and PostgreSQL or a reader's stack does not: NUL characters and very deep nesting."""
    if isinstance(value, str):
        if "\0" in value:
            yield FieldError(path, "must not contain the character NUL")
    elif isinstance(value, dict | list) and depth == DEEPEST:
        yield FieldError(path, f"is nested more than {DEEPEST} levels deep")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if "\0" in key:
                yield FieldError(path, "must not contain the character NUL in a field's name")
            else:
                yield from unstorable(inner, join(path, key), depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from unstorable(inner, f"{path}[{number}]", depth + 1)


def join(path: str, name: str) -> str:
    if len(name) > LONGEST_KEY:
        name = name[:LONGEST_KEY] + "…"
    return f"{path}.{name}" if path else name


def _wrong_in_struct(value: Mapping[str, Any], type_: type[Struct], path: str, *, strict: bool) -> Iterator[FieldError]:
    fields = msgspec.structs.fields(type_)
    for field in fields:
        if field.encode_name in value:
            yield from wrong_fields(value[field.encode_name], field.type, join(path, field.encode_name), strict=strict)
        elif field.default is NODEFAULT and field.default_factory is NODEFAULT:
            yield FieldError(join(path, field.encode_name), "is missing")
    if type_.__struct_config__.forbid_unknown_fields:
        known = {field.encode_name for field in fields}
        for name in value:
            if name not in known:
                yield FieldError(join(path, name), "is not known here")


def _wrong_leaf(value: Any, type_: Any, path: str, *, strict: bool) -> Iterator[FieldError]:
    try:
        msgspec.convert(value, type_, strict=strict)
    except ValidationError as error:
        choices = _choices(type_)
        yield FieldError(path, f"expected one of {', '.join(choices)}") if choices else _field_error(path, error)


def _field_error(path: str, error: ValidationError) -> FieldError:
    """The sentence of msgspec in words of JSON, its place joined to ours."""
    text = str(error)
    if where := _WHERE.search(text):
        inner = where[1].removeprefix(".")
        path = f"{path}{inner}" if inner.startswith("[") or not path else f"{path}.{inner}"
        text = text[: where.start()]
    if _REPEATS.match(text):
        return FieldError(path, "is not one of the values expected here")
    text = _TYPE.sub(lambda name: " or ".join(_NAMES.get(part, part) for part in name[1].split(" | ")), text)
    return FieldError(path, text[:1].lower() + text[1:])


def _looked_into(type_: Any, value: Any) -> Any:
    """The struct, list or dict type (annotated or not, null besides or not) that `value` has the outer form of."""
    if get_origin(type_) is Annotated:
        return _looked_into(get_args(type_)[0], value)
    if get_origin(type_) in {Union, types.UnionType}:
        options = [option for option in get_args(type_) if option is not type(None)]
        return _looked_into(options[0], value) if len(options) == 1 else None
    if (origin := get_origin(type_)) in {list, dict}:
        return type_ if isinstance(value, origin) else None
    if isinstance(type_, type) and issubclass(type_, Struct):
        return type_ if isinstance(value, dict) else None
    return None


def _bounds(type_: Any) -> Any:
    if get_origin(type_) is Annotated:
        return next((meta for meta in get_args(type_)[1:] if isinstance(meta, msgspec.Meta)), None)
    return None


def _choices(type_: Any) -> list[str]:
    if get_origin(type_) in {Union, types.UnionType, Annotated}:
        return [choice for option in get_args(type_) for choice in _choices(option)]
    if get_origin(type_) is Literal:
        return [str(choice) for choice in get_args(type_)]
    if isinstance(type_, type) and issubclass(type_, Enum):
        return [str(choice.value) for choice in type_]
    return []
