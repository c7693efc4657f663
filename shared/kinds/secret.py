"""Parameters that nobody is shown again: how a kind marks them, and where they stand in a job's `params`.

    class Transfer(Struct):
        password: Secret
        headers: Annotated[dict[str, str], SECRET]

docs/security.md says what follows from a mark.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from msgspec import Meta, inspect

SECRET = Meta(extra={"secret": True}, extra_json_schema={"writeOnly": True})
"""For `Annotated`: everything in that value is secret, of whatever type it is."""

Secret = Annotated[str, Meta(extra={"secret": True}, extra_json_schema={"writeOnly": True, "format": "password"})]
"""A password, a token, a key. May stand in lists, dicts, unions and structs; `Annotated[Secret, Meta(…)]` limits it."""

HIDDEN = "•••"
"""What stands for a secret wherever it would have been shown."""

_NUMBERS = (int, float)


def redact(params: dict[str, Any], type_: Any) -> Any:
    """`params`, as JSON has them, with HIDDEN in place of each secret; one that is null stays null.

    `type_` is what the kind says of them; None, for a kind that is not known: then any value may be a secret.
    """
    if type_ is None:
        return {name: value if value is None else HIDDEN for name, value in params.items()}
    return _hide(params, _shape(type_), []) if has_secrets(type_) else params


def secret_values(params: Any, type_: Any) -> list[str]:
    """The texts of all secrets in `params`, also in params that are not of `type_` to the letter."""
    found: list[str] = []
    if has_secrets(type_):
        _hide(params, _shape(type_), found)
    return found


@cache
def has_secrets(type_: Any) -> bool:
    """Whether anything in values of this type is marked."""
    return _has_mark(_shape(type_), set())


def is_secret(type_: Any) -> bool:
    """Whether values of this type are secret themselves, or may be."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return any(isinstance(meta, Meta) and bool((meta.extra or {}).get("secret")) for meta in arguments[1:])
    return origin in {Union, UnionType} and any(is_secret(option) for option in arguments)


@cache
def _shape(type_: Any) -> inspect.Type:
    return inspect.type_info(type_)


def _is_mark(shape: inspect.Type) -> bool:
    return isinstance(shape, inspect.Metadata) and (
        bool(shape.extra and shape.extra.get("secret")) or _is_mark(shape.type)
    )


def _hide(value: Any, shape: inspect.Type, found: list[str]) -> Any:
    """`value` without its secrets, whose texts are added to `found`."""
    if value is None or value is HIDDEN:
        return value
    if _is_mark(shape):
        found += _texts(value)
        return HIDDEN
    if isinstance(shape, inspect.Metadata):
        return _hide(value, shape.type, found)
    if isinstance(shape, inspect.UnionType):
        # all that it may be, where it is none of them: rather too much is hidden than too little
        for option in [option for option in shape.types if _fits(value, option)] or shape.types:
            value = _hide(value, option, found)
        return value
    if isinstance(value, dict):
        return _hide_in_object(value, shape, found)
    return _hide_in_list(value, shape, found) if isinstance(value, list) else value


def _hide_in_object(value: dict[str, Any], shape: inspect.Type, found: list[str]) -> Any:
    if isinstance(shape, inspect.DictType):
        hidden = {name: _hide(inner, shape.value_type, found) for name, inner in value.items()}
        if _is_mark(shape.key_type):
            found += value
            return HIDDEN
        return hidden
    if isinstance(shape, inspect.StructType | inspect.TypedDictType | inspect.DataclassType):
        shapes = {field.encode_name: field.type for field in shape.fields}
        return {name: _hide(inner, shapes[name], found) if name in shapes else inner for name, inner in value.items()}
    return value


def _hide_in_list(value: list[Any], shape: inspect.Type, found: list[str]) -> list[Any]:
    match shape:
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType():
            return [_hide(inner, shape.item_type, found) for inner in value]
        case inspect.TupleType():
            return _hide_each(value, shape.item_types, found)
        case inspect.NamedTupleType():
            return _hide_each(value, [field.type for field in shape.fields], found)
        case inspect.StructType(array_like=True):
            tag: list[inspect.Type] = [] if shape.tag_field is None else [inspect.AnyType()]
            return _hide_each(value, [*tag, *(field.type for field in shape.fields)], found)
    return value


def _hide_each(values: list[Any], shapes: Iterable[inspect.Type], found: list[str]) -> list[Any]:
    hidden = [_hide(value, shape, found) for value, shape in zip(values, shapes, strict=False)]
    return hidden + values[len(hidden) :]


def _texts(value: Any) -> Iterator[str]:
    """What could be shown of a secret: texts and numbers. The names of fields are not secret."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, _NUMBERS) and not isinstance(value, bool):
        yield str(value)


def _fits(value: Any, shape: inspect.Type) -> bool:
    """Whether a union's option can be meant, by its outer form and its tag."""
    match shape:
        case inspect.Metadata():
            return _fits(value, shape.type)
        case inspect.NoneType():
            return value is None
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType() | inspect.FloatType():
            return isinstance(value, _NUMBERS) and not isinstance(value, bool)
        case inspect.StructType(array_like=False):
            return isinstance(value, dict) and (
                shape.tag_field is None or value.get(shape.tag_field, shape.tag) == shape.tag
            )
        case inspect.DictType() | inspect.TypedDictType() | inspect.DataclassType():
            return isinstance(value, dict)
        case (
            inspect.StructType()
            | inspect.NamedTupleType()
            | inspect.TupleType()
            | inspect.ListType()
            | inspect.VarTupleType()
            | inspect.SetType()
            | inspect.FrozenSetType()
        ):
            return isinstance(value, list)
        case inspect.StrType():
            return isinstance(value, str)
    return True


def _has_mark(shape: inspect.Type, seen: set[int]) -> bool:
    if id(shape) in seen:  # a struct within itself
        return False
    seen.add(id(shape))
    if _is_mark(shape):
        return True
    match shape:
        case inspect.Metadata():
            inner: list[inspect.Type] = [shape.type]
        case inspect.UnionType():
            inner = list(shape.types)
        case inspect.StructType() | inspect.NamedTupleType() | inspect.TypedDictType() | inspect.DataclassType():
            inner = [field.type for field in shape.fields]
        case inspect.DictType():
            inner = [shape.key_type, shape.value_type]
        case inspect.TupleType():
            inner = list(shape.item_types)
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType():
            inner = [shape.item_type]
        case _:
            inner = []
    return any(_has_mark(each, seen) for each in inner)
