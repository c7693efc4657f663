"""Reading Server-Sent Events: however the network cuts them, and only up to a size."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.cli.sse import LARGEST, Event, Parser, SseError

STREAM = (
    b"retry: 2000\n\n"
    b": a comment\n\n"
    b'event: log\ndata: {"lines":[]}\n\n'
    b'event: progress\r\nid: abc-1\r\ndata: {"title":"caf\xc3\xa9",\r\ndata: "n":1}\r\n\r\n'
    b'event: ping\rdata:{"timestamp":1}\r\n\n'
    b"data: 7\n\n"
    b"event: nothing\n\n"
    b'event: cut\ndata: {"never":'
)
EVENTS = [
    Event("log", {"lines": []}, None),
    Event("progress", {"title": "café", "n": 1}, "abc-1"),
    Event("ping", {"timestamp": 1}, None),
    Event("message", 7, None),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_are_the_same_however_they_arrive(cuts: list[int]) -> None:
    parser = Parser()
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in pairwise(places)]
    assert [event for chunk in chunks for event in parser.feed(chunk)] == EVENTS
    assert parser.retry == 2000


@pytest.mark.parametrize("piece", [b"x" * 65536, b"data: " + b"x" * 65530 + b"\n"], ids=["a line", "an event"])
def test_what_has_no_end_is_given_up(piece: bytes) -> None:
    parser = Parser()
    pieces = [piece] * (LARGEST // len(piece) + 2)
    with pytest.raises(SseError, match="longer than"):
        [event for piece in pieces for event in parser.feed(piece)]


def test_data_that_is_no_json_is_an_error() -> None:
    with pytest.raises(SseError, match="`progress` is not JSON"):
        list(Parser().feed(b"event: progress\ndata: {\n\n"))


@pytest.mark.parametrize("retry", [b"soon", b"-1", b"99999999999", b""])
def test_a_retry_that_makes_no_sense_is_ignored(retry: bytes) -> None:
    parser = Parser()
    list(parser.feed(b"retry: " + retry + b"\n\n"))
    assert parser.retry is None
