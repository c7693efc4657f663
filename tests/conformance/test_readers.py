"""Readers that others wrote, at the real service: through proxies that chop, and all that befalls a connection."""

from collections.abc import Callable
from contextlib import ExitStack

from msgspec.structs import replace

from services.stream.app import create_app
from shared.auth import issue_token
from shared.jobs import JobStatus
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.journey import travel
from tests.support.odd import ODD_TEXTS
from tests.support.readers import Reader, told
from tests.support.relay import relayed
from tests.support.sse import Stream
from tests.support.web import served
from tests.support.writer import Writer

Read = Callable[[str, str], Reader]


def test_all_are_told_the_same_at_the_same_time(settings: Settings, writer: Writer, path: str, read: Read) -> None:
    with (
        served(create_app(replace(settings, window=0))) as address,
        relayed(address, piece=1) as chopping,
        relayed(address, piece=7) as tearing,
        ExitStack() as stack,
    ):
        ours = stack.enter_context(Stream(address, writer.batch_id, issue_token(settings, OWNER)))
        urls = [address + path, chopping.url + path, tearing.url + path]
        others = [stack.enter_context(read(kind, url)) for kind in ("eventsource", "parser") for url in urls]

        def all_reach(version: int) -> None:
            ours.to_version(version)
            for other in others:
                other.wait(len(ours.record.events))

        all_reach(1)
        writer.start(0, 1, 2)
        all_reach(writer.progress(1, 1, lines=5, text="first"))
        for number, text in enumerate(ODD_TEXTS):
            all_reach(writer.progress(0, number, lines=2, text=text, step=text, message=text))
        for position in range(2):
            all_reach(writer.finish(position))
        writer.finish(2, JobStatus.FAILED, lines=1)
        ours.rest()
        for other in others:
            assert other.wait(len(ours.record.events)) == ours.record.events
    assert ours.record.events[-1].name == "complete"


def test_an_eventsource_gets_through_all_that_befalls_it(
    settings: Settings, writer: Writer, path: str, read: Read
) -> None:
    with relayed("") as relay, ExitStack() as stack:

        def begin() -> Callable[[], list[dict[str, object]]]:
            reader = stack.enter_context(read("eventsource", relay.url + path))
            return lambda: list(reader.heard)

        travel(relay, writer, settings, begin)


def test_who_is_sent_away_comes_back_when_told_to(settings: Settings, writer: Writer, path: str, read: Read) -> None:
    settings = replace(settings, owner_viewers=1)
    with (
        served(create_app(settings, jitter=lambda: 0.1)) as address,
        relayed(address) as relay,
        Stream(address, writer.batch_id, issue_token(settings, OWNER)) as first,
    ):
        first.delta()
        with read("eventsource", relay.url + path) as second:
            (error, *_) = second.wait(1)
            assert error.data["code"] == "too_many_connections"
            first.close()
            events = second.wait(2)
            assert events[-1].name == "progress"
            assert told(second.heard).version == 1
    refused, let_in = relay.streams
    assert let_in.at - refused.at >= 2.6 - 0.1, "2,000 to 8,000 ms, by chance: a tenth of it"
