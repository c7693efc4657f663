"""What an EventSource has to get through: a server that dies, a connection that is cut, one that is too old, the end.

Whose EventSource it is does not matter: it says what it hears, as tests/conformance/node/read.mjs does.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from msgspec.structs import replace

from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.readers import told
from tests.support.relay import Relay
from tests.support.streams import stream_process
from tests.support.writer import Writer

RETRY = 2.0
"""Seconds after which an EventSource is asked to come back."""

Heard = Callable[[], list[dict[str, Any]]]


def travel(relay: Relay, writer: Writer, settings: Settings, begin: Callable[[], Heard]) -> None:
    """`begin` opens the EventSource, at the address of the relay; the writer's batch has three jobs, still queued."""
    writer.start(0, 2)
    writer.finish(2)
    with stream_process(settings) as (relay.target, _):
        heard = begin()
        _reaches(heard, writer.progress(0, 10, lines=40, text="a\n\u2028b" * 100))
    # its process was killed; meanwhile something happens
    missed = writer.progress(0, 20, lines=2)
    with stream_process(settings) as (relay.target, _):
        _reaches(heard, missed)
        relay.cut()
        _reaches(heard, writer.progress(0, 30, lines=2))
    with stream_process(replace(settings, lifetime=1)) as (relay.target, _):
        wait_for(lambda: any(said.get("name") == "timeout" for said in heard()), "the end of a lifetime")
        writer.start(1)
        writer.finish(0, lines=1)
        _reaches(heard, writer.finish(1, lines=1))
        wait_for(lambda: heard()[-1].get("connection") == "closed", "the EventSource to come to rest")
    requests = relay.streams
    record = told(heard())
    assert record.batch["status"] == "COMPLETED"
    assert record.jobs == writer.state()["jobs"]
    assert record.lines == writer.state()["lines"]
    assert [event.name for event in record.events].count("complete") == 1
    assert _whole_states(record.events, len(writer.jobs)) == 1, "one snapshot, and then what changed"
    _asked_well(heard(), [request.headers.get("last-event-id") for request in requests])
    gaps = [later.at - earlier.at for earlier, later in pairwise(requests)]
    assert min(gaps) >= RETRY - 0.1, "it comes back when it was told to"


def _reaches(heard: Heard, version: int) -> None:
    wait_for(lambda: told(heard()).version >= version, f"version {version}", 30)


def _whole_states(events: list[Any], jobs: int) -> int:
    return [len(event.data["jobs"]) for event in events if event.name in {"progress", "complete"}].count(jobs)


def _asked_well(heard: list[dict[str, Any]], asked: list[str | None]) -> None:
    """Each time with the last id that it had; attempts that found nobody are repeated."""
    expected: list[str | None] = [None]
    last = None
    for said in heard:
        last = said.get("id") or last
        if said.get("connection") == "lost":
            expected.append(last)
    assert asked[0] is None
    distinct = [one for number, one in enumerate(asked) if number == 0 or one != asked[number - 1]]
    wanted = [one for number, one in enumerate(expected) if number == 0 or one != expected[number - 1]]
    assert distinct == wanted
