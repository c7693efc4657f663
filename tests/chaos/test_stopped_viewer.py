"""A viewer is stopped for 20 s while 5,000 updates pass: it hears of them in one piece, and nobody waits for it."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from threading import Event

import pytest
import sqlalchemy as sa
from msgspec import structs

from shared.event_ids import parse_event_id
from shared.settings import Settings
from tests.support.audience import Audience
from tests.support.batches import wait_for
from tests.support.distant import Distant
from tests.support.history import History, Recording, record_history
from tests.support.ordeal import PATIENCE
from tests.support.streams import stream_process
from tests.support.viewers import Viewer
from tests.support.writer import Writer

pytestmark = pytest.mark.timeout(300)  # half a minute, but on a machine that is busy otherwise

STOPPED = 20.0
"""Seconds."""
UPDATES = 5_000
LINE = "x" * 500
"""One for each update: together more than the kernel would keep for anybody."""
SOON = 10.0
"""Seconds within which the others hear of an update; usually a tenth of one. It is half of what they would wait."""


def test_who_was_stopped_hears_of_all_at_once_and_nobody_waits_for_it(settings: Settings, engine: sa.Engine) -> None:
    record_history(engine)
    writer = Writer(engine, settings, 3)
    history = History(engine, writer.batch_id)
    with ExitStack() as stack:
        stack.callback(writer.close)
        # the last gives up a connection on which nothing moves, after 10 s
        patient, plain, strict = (
            stack.enter_context(stream_process(structs.replace(settings, heartbeat=heartbeat), module))[0]
            for heartbeat, module in (
                (settings.heartbeat, "services.stream"),
                (settings.heartbeat, "tests.support.plain_stream"),
                (1, "services.stream"),
            )
        )
        audience = Audience(settings, writer.batch_id, [patient, plain, strict])
        stack.callback(audience.leave)
        others = [audience.enter(f"stays at {number}", replicas=[number]) for number in range(3)]
        sleepers = [
            audience.enter(f"is stopped at {number}", kind=Distant, replicas=[number], room=4096) for number in range(3)
        ]

        before = writer.start(0, 1, 2)
        all_have(audience.viewers, before, PATIENCE)
        for sleeper in sleepers:
            sleeper.stop()
        stopped = time.monotonic()
        for number in range(UPDATES):
            version = writer.progress(number % 3, 99 * number // UPDATES, lines=1, text=LINE)
            if number % 100 == 99:
                all_have(others, version, SOON)
        Event().wait(stopped + STOPPED - time.monotonic())
        assert not any(sleeper.has(version) for sleeper in sleepers)
        for sleeper in sleepers:
            sleeper.go_on()
        all_have(sleepers, version, PATIENCE)
        for position in range(3):
            writer.finish(position, lines=1)
        audience.see_the_end(history, PATIENCE)

    for sleeper in sleepers:
        _check_merged(sleeper.recording, before, version)
    for sleeper in sleepers[:2]:
        statuses = [connection.status for connection in sleeper.recording.connections]
        assert statuses.count(200) == 1, "nobody is sent away for being slow"
    assert version == before + UPDATES


def all_have(viewers: Sequence[Viewer | Distant], version: int, seconds: float) -> None:
    wait_for(lambda: all(viewer.has(version) for viewer in viewers), f"all to hear of version {version}", seconds)


def _check_merged(recording: Recording, before: int, version: int) -> None:
    """It was told in a few pieces, and of the lines that are too many it was told where they are."""
    ids = [parse_event_id(event.id) for event in recording.events() if event.id]
    reached = [before, *(each.version for each in ids if each and before < each.version <= version)]
    assert len(reached) < UPDATES / 50, f"{recording.name} was told of everything"
    assert max(after - since for since, after in pairwise(reached)) > 0.9 * UPDATES, f"{recording.name}: {reached}"
    record = recording.record()
    assert len(record.lines) + record.left_out == UPDATES + 3
    assert record.left_out > UPDATES / 2
