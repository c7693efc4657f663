"""The ledger's dealings with a handler that does not end, before anything is committed."""

import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

import pytest
from msgspec import Struct

from services.worker.ledger import Ledger
from services.worker.run import Run
from services.worker.runner import Runner
from shared.kinds.kind import Kind
from shared.settings import Settings
from shared.updates import Handler, Job, Progress, Updates
from tests.support.batches import wait_for


@pytest.fixture
def ledger() -> Ledger:
    """Without a writer."""
    settings = Settings(database_url="postgresql:///", redis_url="redis://", secret="s" * 32, ticket_key="t" * 32)
    return Ledger(settings, lambda _: 60)


@pytest.fixture
def begin(ledger: Ledger) -> Callable[[Handler], tuple[Run, Thread]]:
    """Runs a handler in a thread, as if its job had been claimed."""

    def beginning(handler: Handler) -> tuple[Run, Thread]:
        job = Job(uuid4(), uuid4(), "anna", "job", 1, uploads=Path())
        run = Run(job, "k", {}, uuid4(), failures=0, last_line=0)
        ledger._runs.begin([run])
        runner = Runner(ledger, {"k": Kind(name="k", title="", params=Struct)}, {"k": handler}, max_result=100)
        thread = Thread(target=runner.run, args=(run,))
        thread.start()
        return run, thread

    return beginning


def test_a_handler_that_yields_at_the_moment_it_is_abandoned_leaves_the_ledger_usable(
    ledger: Ledger, begin: Callable[[Handler], tuple[Run, Thread]]
) -> None:
    yields = Event()

    def late(params: Struct, job: Job) -> Updates[None]:
        yields.wait(10)
        yield Progress(50)

    run, thread = begin(late)
    with ledger._lock:
        yields.set()
        wait_for(lambda: _waits_for_the_lock(thread), "the handler's thread to be at the ledger's door")
        ledger._runs.abandon(run)
    thread.join(10)
    assert not thread.is_alive()
    assert ledger._lock.acquire(timeout=5), "the exception came while the thread held the lock"
    assert ledger.abandoned == 0


def test_a_handler_in_an_endless_loop_is_got_out_of_it(
    ledger: Ledger, begin: Callable[[Handler], tuple[Run, Thread]]
) -> None:
    began = Event()

    def loops(params: Struct, job: Job) -> Updates[None]:
        began.set()
        while True:
            pass
        yield Progress(50)

    run, thread = begin(loops)
    assert began.wait(10)
    with ledger._lock:
        ledger._runs.abandon(run)
    thread.join(10)
    assert not thread.is_alive()
    assert ledger.abandoned == 0


def test_giving_up_when_some_handlers_have_lost_their_jobs(
    ledger: Ledger, begin: Callable[[Handler], tuple[Run, Thread]]
) -> None:
    leave = Event()

    def stuck(params: Struct, job: Job) -> Updates[None]:
        leave.wait(10)
        yield Progress(50)

    runs = [begin(stuck) for _ in range(4)]
    for run, _ in runs[:2]:
        ledger._runs.lose(run)
    ledger.give_up()
    assert ledger.abandoned == 4
    assert ledger.running == 2, "what was lost needs no commit"
    leave.set()
    for _, thread in runs:
        thread.join(10)
    assert ledger.abandoned == 0


def _waits_for_the_lock(thread: Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == "__enter__"
