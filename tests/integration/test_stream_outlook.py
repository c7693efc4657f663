"""What is expected of a batch is told between its versions, to whoever watches, and disturbs nobody."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from services.stream import lookout
from services.stream.hub import Hub
from shared import models
from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.sse import Record, Stream
from tests.support.streams import stream_thread
from tests.support.ways import WAYS, Way
from tests.support.web import client
from tests.support.websockets import RawSocket, Reader
from tests.support.workers import add_worker
from tests.support.writer import Writer

ALONE = {"reason": "no_worker"}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests would take a minute."""
    monkeypatch.setattr(lookout, "PERIOD", 0.1)


@pytest.fixture(params=WAYS, ids=str)
def served(request: pytest.FixtureRequest, settings: Settings) -> Iterator[tuple[str, Hub]]:
    way: Way = request.param
    with way.served(settings) as (address, app):
        yield address, app.state.hub


def comes(engine: sa.Engine) -> Any:
    """A worker, to stay for an hour."""
    return add_worker(engine, silent=-3600)


def waits(stream: Stream) -> Any:
    """Why, as its reader was told last."""
    return stream.record.batch["waiting"]


# -- one reader ---------------------------------------------------------------------------------------------------


def test_a_reader_hears_that_a_worker_has_come(served: tuple[str, Hub], writer: Writer, token: str) -> None:
    with Stream(served[0], writer.batch_id, token) as stream:
        stream.delta()
        before = stream.record.id
        assert waits(stream) == ALONE, "from the beginning"
        comes(writer.engine)
        refresh = stream.next()
        assert (refresh.name, refresh.id, refresh.data["jobs"]) == ("progress", None, [])
        assert stream.record.refreshes == [refresh]
        assert waits(stream) is None
        assert stream.record.id == before
        writer.start(0)
        (progress,) = stream.delta()
        assert [job["position"] for job in progress.data["jobs"]] == [0]


def test_what_a_worker_says_of_a_batch_does_not_take_back_what_it_cannot_know(
    served: tuple[str, Hub], writer: Writer, token: str
) -> None:
    writer.start(0)
    with Stream(served[0], writer.batch_id, token) as stream:
        stream.delta()
        for percent in (10, 20, 30):
            version = writer.progress(0, percent)
            stream.to_version(version)
            assert waits(stream) == ALONE, "nobody is there for the others"
        stream.to_version(writer.start(1, 2))
        assert waits(stream) is None, "there are no others"


def test_who_comes_back_is_told_and_goes_on_from_the_same_id(
    served: tuple[str, Hub], writer: Writer, token: str
) -> None:
    with Stream(served[0], writer.batch_id, token) as stream, Stream(served[0], writer.batch_id, token) as other:
        stream.delta()
        other.delta()
        stream.close()
        worker = comes(writer.engine)
        other.until(lambda _: waits(other) is None)
        with Stream(served[0], writer.batch_id, token, record=stream.record) as again:
            again.next()
            assert waits(again) is None
            writer.start(1)
            (progress,) = again.delta()
            assert [job["position"] for job in progress.data["jobs"]] == [1]
            assert not {"reset", "error"} & {event.name for event in again.record.events}
    assert worker


def test_who_comes_later_has_it_in_the_snapshot(served: tuple[str, Hub], writer: Writer, token: str) -> None:
    with Stream(served[0], writer.batch_id, token) as first:
        first.delta()
        comes(writer.engine)
        first.until(lambda _: waits(first) is None)
        with Stream(served[0], writer.batch_id, token, jobs="none") as later:
            (snapshot,) = later.delta()
            assert snapshot.data["waiting"] is None


def test_nothing_is_written_while_nothing_changes(served: tuple[str, Hub], writer: Writer, token: str) -> None:
    address, hub = served
    with Stream(address, writer.batch_id, token) as stream:
        stream.delta()
        written, looks = hub.metrics.bytes, hub.metrics.readings["answered"]
        wait_for(lambda: hub.metrics.readings["answered"] > looks + 5, "some looks")
        assert hub.metrics.bytes == written
        comes(writer.engine)
        stream.next()
        assert stream.record.refreshes


def test_nobody_looks_while_nobody_watches(settings: Settings, writer: Writer, token: str) -> None:
    with stream_thread(replace(settings, version_check=3600)) as (address, app):
        hub: Hub = app.state.hub
        hub.topics.linger = 0.1
        with Stream(address, writer.batch_id, token) as stream:
            stream.delta()
        wait_for(lambda: not hub.topics.keepers, "the topic to be closed")

        def quiet() -> bool:
            looks = hub.metrics.readings["answered"]
            time.sleep(1)  # ten times as long as it takes to the next look
            return hub.metrics.readings["answered"] == looks

        assert quiet() or quiet(), "one may have been under way, but no other comes"


# -- the other ways to ask ----------------------------------------------------------------------------------------


def test_a_reply_that_waits_goes_on_waiting_and_is_up_to_date(settings: Settings, writer: Writer) -> None:
    with stream_thread(settings) as (address, app), client(address, settings) as anna:
        hub: Hub = app.state.hub
        path = f"/api/batches/{writer.batch_id}/changes"
        first = anna.get(path).json()
        assert first["batch"]["waiting"] == ALONE
        replies: list[Any] = []
        asking = Thread(target=lambda: replies.append(anna.get(f"{path}?since={first['id']}&wait=2").json()))
        asking.start()
        wait_for(lambda: hub.present, "it to be held")
        comes(writer.engine)
        keeper = next(iter(hub.topics.keepers.values()))
        wait_for(lambda: keeper.topic.batch.waiting is None, "the process to see it")
        assert not replies, "nothing has happened"
        asking.join()
    assert replies[0] == first | {"batch": first["batch"] | {"waiting": None}, "jobs": [], "lines": []}


def test_a_websocket_hears_it_for_the_batch_and_not_for_its_log_or_job(
    settings: Settings, writer: Writer, token: str
) -> None:
    topics = [f"batch:{writer.batch_id}", f"logs:{writer.batch_id}", f"job:{writer.jobs[0]}"]
    with stream_thread(settings) as (address, _), RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(*topics)
        reader.catch_up()
        comes(writer.engine)
        (said, *_) = reader.until(lambda _: reader.refreshes)[-1:]
        assert (said["topic"], said["type"], said["id"], said["data"]["jobs"]) == (topics[0], "progress", None, [])
        assert reader.records[topics[0]].batch["waiting"] is None
        version = writer.start(0)
        reader.to_version(version, [topics[0], topics[2]])
        assert [said["topic"] for said in reader.refreshes] == [topics[0]]


# -- load ---------------------------------------------------------------------------------------------------------


@contextmanager
def flicker(engine: sa.Engine) -> Iterator[None]:
    """A worker that comes and goes all the time."""
    worker, enough = comes(engine), Flag()

    def go_on() -> None:
        draining = False
        while not enough.wait(0.03):
            draining = not draining
            with engine.begin() as connection:
                gone = sa.update(models.workers).where(models.workers.c.id == worker).values(draining=draining)
                connection.execute(gone)

    thread = Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
        with engine.begin() as connection:
            connection.execute(sa.delete(models.workers))


def test_it_never_comes_within_a_delta(
    served: tuple[str, Hub], make_writer: Callable[..., Writer], token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "PERIOD", 0.01)
    address, _ = served
    writer = make_writer(60)
    writer.start(0)
    # a Record fails when anything comes where it does not belong
    slow = Stream(address, writer.batch_id, token, record=Record(), receive_buffer=4096)
    with Stream(address, writer.batch_id, token) as quick, slow, flicker(writer.engine):
        quick.delta()
        for number in range(40):
            version = writer.progress(0, number, lines=300 if number % 4 == 0 else 1, text="x" * 500)
            quick.to_version(version)
            if number % 10 == 9:
                slow.delta()
        while len(quick.record.refreshes) < 10:
            quick.next()
    with Stream(address, writer.batch_id, token, record=slow.record) as slow:
        slow.to_version(version)
        while waits(slow) != ALONE:
            slow.next()
        assert slow.record.jobs == writer.state()["jobs"]
