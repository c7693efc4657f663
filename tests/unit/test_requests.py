"""How bodies and queries are read: as JSON and the OpenAPI document mean them, and no more freely."""

from typing import Any, cast

import pytest

from services.api.batches import BatchesQuery
from services.api.body import decode_json
from shared.errors import Invalid, Malformed
from shared.jobs import BatchStatus
from shared.web.identity import Connection
from shared.web.parameters import read_query


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5.0", 5),
        ("1e3", 1000),
        ("-2.0", -2),
        ("0.5", 0.5),
        ("9007199254740993.0", 9007199254740992.0),
        ("1e300", 1e300),
        ("123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_a_number_is_an_integer_however_it_is_written(text: str, value: float) -> None:
    decoded = decode_json(text.encode())
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize("text", ["1e400", "-1e400", "NaN", "Infinity"])
def test_a_number_that_is_none_or_too_large_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        decode_json(text.encode())


def asked(query: str) -> Connection:
    return cast("Connection", type("Asked", (), {"scope": {"query_string": query.encode()}}))


@pytest.mark.parametrize("value", ["null", "NULL", "queued", ""])
def test_no_word_stands_for_a_parameter_that_is_left_out(value: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_query(asked(f"status={value}"), BatchesQuery)
    assert [error.path for error in refused.value.errors or ()] == ["status"]


def test_in_a_text_it_is_a_word_like_any_other() -> None:
    query: Any = read_query(asked("q=null&status=QUEUED"), BatchesQuery)
    assert (query.q, query.status) == ("null", BatchStatus.QUEUED)
