"""A worker process in threads of the test's own, with handlers that the test wrote."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from msgspec import Struct, structs

from services.worker.handlers.rehearsal import rehearsal
from services.worker.process import WorkerProcess, quiet_dramatiq
from shared.creation import TICKETS
from shared.kinds.kind import Kind
from shared.kinds.rehearsal import REHEARSAL
from shared.queue import make_broker, send_tickets
from shared.settings import Settings
from tests.support.batches import make_batch


class Nothing(Struct):
    """Parameters of a kind that needs none."""


def kind_of(handler: Callable[..., Any], **changes: Any) -> Kind:
    kind = Kind(name=handler.__name__, title="", params=Nothing, max_attempts=1, time_limit=1, backoff=(0.1, 0.2))
    return structs.replace(kind, **changes)


@contextmanager
def working(settings: Settings, *handlers: Callable[..., Any], **changes: Any) -> Iterator[WorkerProcess]:
    """It runs these handlers, and `rehearsal`, while the `with` block lasts. `changes`: of their kinds."""
    quiet_dramatiq()
    kinds = {kind.name: kind for kind in (REHEARSAL, *(kind_of(handler, **changes) for handler in handlers))}
    table = {handler.__name__: handler for handler in handlers} | {"rehearsal": rehearsal}
    stop = Event()
    process = WorkerProcess(structs.replace(settings, cancel_grace=0.5), "default", kinds, table)
    thread = Thread(target=process.run, args=(stop,))
    thread.start()
    try:
        yield process
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def submit(engine: sa.Engine, settings: Settings, jobs: int, kind: Any = "rehearsal", **options: Any) -> UUID:
    """A batch, and tickets for it."""
    batch_id = make_batch(engine, jobs, kind, **options)
    broker = make_broker(settings.tickets_url, settings.namespace, ("default",))
    assert send_tickets(broker, "default", min(jobs, TICKETS))
    broker.close()
    return batch_id
