"""Log lines as text: one line each, whatever is in them."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from services.api.transcript import Name, harmless, transcribe


def test_a_line_says_when_how_bad_who_and_what() -> None:
    row = SimpleNamespace(at=datetime(2026, 11, 21, 8, 30, 0, 125_999, UTC), level="warn", attempt=2, text="It is dark")

    assert transcribe(row, Name(12, "salon-1.jpg")) == (
        "2026-11-21T08:30:00.125Z warn    #12 salon-1.jpg (attempt 2): It is dark\n"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcödé, 家", "plain, ünïcödé, 家"),
        ("", ""),
        ("a\tb", "a\tb"),
        ("\x1b[31mred\x1b[0m, \x1b[1;38;5;4mblue\x1b[m", "red, blue"),
        ("\x1b[2J\x1b]0;title\x07", "␛[2J␛]0;title␇"),
        ("one\ntwo\r\nthree\x0bfour\x0cfive", "one␊two␍␊three␋four␌five"),
        ("\x7f\x85\x9b31m\u2028\u2029", "␡\ufffd\ufffd31m\ufffd\ufffd"),
        ("\x1b\x1b[31m[2J", "␛[2J"),
    ],
)
def test_nothing_in_a_text_is_obeyed(text: str, shown: str) -> None:
    assert harmless(text) == shown
    assert len(f"{shown}\n".splitlines()) == 1


def test_names_are_harmless_too() -> None:
    row = SimpleNamespace(at=datetime(2026, 1, 1, tzinfo=UTC), level="log", attempt=1, text="x")

    assert "#0 a␊2026 error b (attempt 1)" in transcribe(row, Name(0, "a\n2026 error b"))
