"""What a listener was told, and what it should have been."""

from collections.abc import Callable
from uuid import UUID

import sqlalchemy as sa

from shared import models
from shared.listeners import TransitionEvent
from tests.support.batches import transition_rows


class Told:
    """A listener that remembers, and fails where it is told to."""

    def __init__(self, fails: Callable[[TransitionEvent], bool] = lambda _: False) -> None:
        self.events: list[TransitionEvent] = []
        self.fails = fails

    def __call__(self, event: TransitionEvent) -> None:
        if self.fails(event):
            raise ValueError("not now")
        self.events.append(event)

    def ids(self, batch_id: UUID) -> list[int]:
        return [event.id for event in self.events if event.batch_id == batch_id]


def ids_of(engine: sa.Engine, batch_id: UUID) -> list[int]:
    return [row.id for row in transition_rows(engine, batch_id)]


def outbox(engine: sa.Engine) -> list[sa.Row[tuple[object, ...]]]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(models.outbox).order_by(models.outbox.c.listener)))
