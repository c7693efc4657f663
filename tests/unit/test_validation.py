"""Every wrong field is named, with what was expected there."""

from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from shared.errors import FieldError, Invalid, Malformed
from shared.jobs import BatchStatus
from shared.web.parameters import decode_cursor, encode_cursor
from shared.web.validation import DEEPEST, MOST_ERRORS, convert, unstorable


class Inner(Struct, rename="camel", forbid_unknown_fields=True):
    step_ms: Annotated[int, Meta(ge=0, le=9)]
    mode: Literal["slow", "fast"] = "slow"


class Outer(Struct, forbid_unknown_fields=True):
    title: Annotated[str, Meta(max_length=5)]
    inner: Inner
    many: Annotated[list[Inner], Meta(max_length=2)] = []
    maybe: Inner | None = None
    status: BatchStatus | None = None
    by_name: dict[str, Inner] = {}
    flag: bool = False


class Window(Struct):
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError("first is after last")


class Holder(Struct):
    window: Window


GOOD = {"title": "t", "inner": {"stepMs": 1}}

CASES: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({"title": 1}, [("title", "expected string, got integer")]),
    ({"title": "too long"}, [("title", "expected string of length <= 5")]),
    ({"title": None}, [("title", "expected string, got null")]),
    ({"flag": 1}, [("flag", "expected true or false, got integer")]),
    ({"inner": []}, [("inner", "expected object, got array")]),
    ({"inner": {}}, [("inner.stepMs", "is missing")]),
    ({"inner": {"step_ms": 1}}, [("inner.stepMs", "is missing"), ("inner.step_ms", "is not known here")]),
    ({"inner": {"stepMs": 10**40}}, [("inner.stepMs", "expected integer <= 9")]),
    ({"inner": {"stepMs": True}}, [("inner.stepMs", "expected integer, got true or false")]),
    (
        {"inner": {"stepMs": 10, "mode": "idle"}},
        [("inner.stepMs", "expected integer <= 9"), ("inner.mode", "expected one of slow, fast")],
    ),
    ({"many": 5}, [("many", "expected array, got integer")]),
    (
        {"many": [{"stepMs": 1}, 7, {"stepMs": "x"}]},
        [
            ("many[1]", "expected object, got integer"),
            ("many[2].stepMs", "expected integer, got string"),
            ("many", "expected array of length <= 2"),
        ],
    ),
    ({"maybe": {"mode": "x"}}, [("maybe.stepMs", "is missing"), ("maybe.mode", "expected one of slow, fast")]),
    ({"maybe": 3}, [("maybe", "expected object or null, got integer")]),
    (
        {"status": "DONE"},
        [("status", "expected one of QUEUED, PROCESSING, PAUSED, COMPLETED, PARTIAL, FAILED, CANCELLED")],
    ),
    ({"by_name": {"a": {"stepMs": 1}, "b": {}}}, [("by_name.b.stepMs", "is missing")]),
    ({"x": 1, "y": 2}, [("x", "is not known here"), ("y", "is not known here")]),
]


@pytest.mark.parametrize(("change", "expected"), CASES, ids=lambda case: str(case)[:40])
def test_every_wrong_field_is_named(change: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    with pytest.raises(Invalid) as caught:
        convert(GOOD | change, Outer)
    assert caught.value.errors == [FieldError(path, message) for path, message in expected]


def test_what_is_right_is_converted() -> None:
    assert convert(GOOD, Outer).inner == Inner(1)
    assert convert("7", int, strict=False) == 7


def test_a_rule_across_fields_is_told_with_its_place() -> None:
    with pytest.raises(Invalid) as caught:
        convert({"window": {"first": 2, "last": 1}}, Holder)
    assert caught.value.errors == [FieldError("window", "first is after last")]


def test_no_reply_names_more_errors_than_anybody_reads() -> None:
    with pytest.raises(Invalid) as caught:
        convert(dict.fromkeys(map(str, range(10_000)), 1), Outer)
    assert len(caught.value.errors or []) == MOST_ERRORS
    assert str(MOST_ERRORS) in caught.value.detail


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


UNSTORABLE: list[tuple[Any, list[str]]] = [
    ({"a": ["\0", {"b": "x\0y"}], "c": "fine \\u0000"}, ["a[0]", "a[1].b"]),
    ({"bad\0key": 1, "good": "\0"}, ["", "good"]),
    (nested(DEEPEST), []),
    (nested(DEEPEST + 1), ["[0]" * DEEPEST]),
    ({"a": 10**300, "b": 1e300, "c": None, "d": "ä😀"}, []),
]


@pytest.mark.parametrize(("value", "paths"), UNSTORABLE, ids=lambda case: str(case)[:30])
def test_what_postgresql_cannot_store_is_found(value: Any, paths: list[str]) -> None:
    assert [error.path for error in unstorable(value, "")] == paths


def test_a_cursor_brings_back_its_value() -> None:
    assert decode_cursor("jobs:7", encode_cursor("jobs:7", 41), int) == 41


@pytest.mark.parametrize(
    "cursor", ["", "x", "!!!!", "e30", encode_cursor("jobs:8", 41), encode_cursor("jobs:7", "a"), "W" * 5000, "é"]
)
def test_a_cursor_of_another_list_or_of_nobody_is_refused(cursor: str) -> None:
    with pytest.raises(Malformed):
        decode_cursor("jobs:7", cursor, int)
