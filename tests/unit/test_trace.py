"""W3C's trace context: what is taken of a caller's headers, and what is not. Never an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.trace import CURRENT, LONGEST_STATE, Trace, read_trace, trace_environment
from shared.web.traced import trace_of

IDS = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
GOOD = f"00-{IDS}-01"


@pytest.mark.parametrize(
    ("parent", "read"),
    [
        (GOOD, GOOD),
        (f"00-{IDS}-00", f"00-{IDS}-00"),
        (f"00-{IDS}-03", f"00-{IDS}-03"),
        (f"00-{IDS}-ff", f"00-{IDS}-03"),  # flags that we do not know are not handed on
        (f"cc-{IDS}-01", GOOD),  # a later version: what it has in common with ours
        (f"cc-{IDS}-01-what-the-future-brings", GOOD),
        (f"00-{IDS}-01-what-the-future-brings", None),
        (f"cc-{IDS}-01.what", None),
        (f"ff-{IDS}-01", None),
        (GOOD.upper(), None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", None),
        (GOOD[:-1], None),
        (GOOD + "\n", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01", None),
        ("", None),
        (f"cc-{IDS}-01-{'x' * 300}", None),
    ],
)
def test_a_valid_traceparent_is_read_and_any_other_ignored(parent: str, read: str | None) -> None:
    trace = read_trace(parent)
    assert (trace and trace.parent) == read


def test_its_parts() -> None:
    trace = read_trace(GOOD)
    assert trace is not None
    assert f"{trace.id}-{trace.span_id}" == IDS
    assert (trace.flags, trace.sampled) == (1, True)
    assert not Trace(f"00-{IDS}-02").sampled


@pytest.mark.parametrize(
    ("state", "read"),
    [
        ("shop=1", "shop=1"),
        ("shop=1,other=a b", "shop=1,other=a b"),
        (" shop=1 ,\tother=2", "shop=1,other=2"),
        ("a-1/b*c_d@sys=x", "a-1/b*c_d@sys=x"),
        ("1tenant@sys=x", "1tenant@sys=x"),
        ("shop=1,,other=2", "shop=1,other=2"),
        ("shop=1,shop=2", ""),
        ("Shop=1", ""),
        ("shop", ""),
        ("shop=", ""),
        ("shop=a=b", ""),
        ("shop=é", ""),
        ("shop=1\n", ""),
        (",".join(f"k{number}=1" for number in range(33)), ""),
        (f"shop={'x' * LONGEST_STATE}", ""),
    ],
)
def test_a_tracestate_that_is_not_valid_is_left_out_and_the_rest_kept(state: str, read: str) -> None:
    assert read_trace(GOOD, state) == Trace(GOOD, read)


@given(st.text(), st.text())
def test_nothing_is_an_error(parent: str, state: str) -> None:
    read_trace(parent, state)
    read_trace(GOOD, state)


def headers(*parents: bytes, states: tuple[bytes, ...] = ()) -> list[tuple[bytes, bytes]]:
    return [
        (b"host", b"x"),
        *((b"traceparent", parent) for parent in parents),
        *((b"tracestate", state) for state in states),
    ]


def test_what_a_request_says_is_one_traceparent_and_all_lines_of_tracestate() -> None:
    good = GOOD.encode()
    assert trace_of(headers()) is None
    assert trace_of(headers(good)) == Trace(GOOD)
    assert trace_of(headers(b" " + good + b"\t")) == Trace(GOOD)
    assert trace_of(headers(good, good)) is None
    assert trace_of(headers(b"\xff\xfe")) is None
    assert trace_of(headers(good, states=(b"a=1", b"b=2"))) == Trace(GOOD, "a=1,b=2")
    assert trace_of(headers(good, states=(b"a=1",) * 1000)) == Trace(GOOD)
    assert trace_of(headers(good, states=(b"\xff=1",))) == Trace(GOOD)


def test_a_program_that_is_started_is_told_where_it_is() -> None:
    assert trace_environment() == {}
    token = CURRENT.set(Trace(GOOD, "a=1"))
    try:
        assert trace_environment() == {"TRACEPARENT": GOOD, "TRACESTATE": "a=1"}
        CURRENT.set(Trace(GOOD))
        assert trace_environment() == {"TRACEPARENT": GOOD}
    finally:
        CURRENT.reset(token)
