"""One worker process: Dramatiq's threads, the ledger and all that runs beside it, for one queue."""

import gc
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread

import dramatiq
import structlog

from services.worker.dispatcher import Dispatchers
from services.worker.drain import Drain, Slots
from services.worker.housekeeping import Housekeeping
from services.worker.job_files import JobFiles
from services.worker.ledger import Ledger
from services.worker.masks import Masks
from services.worker.metrics import Metrics
from services.worker.prepared import await_schema
from services.worker.registry import Registry, resident_memory
from services.worker.report import Reporter, State
from services.worker.runner import Runner
from services.worker.scratch import Scratch
from services.worker.standby import StandBy
from services.worker.sweeper import Sweeper
from services.worker.writer import Writer
from shared.channels import Publisher
from shared.database import make_engine
from shared.files import make_files
from shared.kinds.kind import Kind
from shared.kinds.limits import limits_of
from shared.listeners import Listener
from shared.queue import make_broker
from shared.redis_clients import make_redis
from shared.settings import Settings
from shared.tickets import ACTOR
from shared.updates import Handler

_FLUSH = 5.0
"""Seconds that the last commits and Dramatiq's threads get at shutdown."""

CONNECTIONS = 7
"""The writer's, the stand-by's, the sweeper's for its lock and for a change, housekeeping's, the registry's, and one
for artifacts. Each listener has one more."""

_ROUNDS = 1.0
"""Seconds in which what goes round by itself may end the round that is under way."""

_IDLE = 50
"""Milliseconds that Dramatiq sleeps at most between two looks for tickets: what an idle worker takes to notice one."""

_STUCK = 1.0
"""Seconds that half of the threads have to be lost before the process is: what is raised in them may end some yet."""

_PERIOD = 0.2
"""Seconds between two looks at what may end the process."""

_SWITCH = 0.001
"""Seconds after which a busy thread lets another one go on. The writer waits for PostgreSQL a dozen times a commit, and
after each for its turn if handlers compute: with Python's usual 0.005 it then made a third fewer commits."""

log = structlog.get_logger(__name__)


class WorkerProcess:
    def __init__(
        self,
        settings: Settings,
        queue: str,
        kinds: Mapping[str, Kind],
        handlers: Mapping[str, Handler],
        masks: Masks | None = None,
        listeners: Mapping[str, Listener] | None = None,
    ) -> None:
        """`masks` gets to know the secrets of the jobs that run, for the process's own log."""
        self._settings = settings
        self._queue = queue
        connections = CONNECTIONS + len(listeners or {})
        self._engine = make_engine(
            settings.database_url,
            pool_size=connections,
            application=f"headway-worker-{queue}",
            pooler=settings.pooler,
        )
        self._redis = make_redis(settings.redis_url)
        publisher = Publisher(self._redis, settings.namespace)
        self.metrics = metrics = Metrics()
        self._dispatchers = Dispatchers(self._engine, settings, listeners or {}, metrics)
        publisher.committed = self._dispatchers.wake
        # all queues, because the sweeper sends tickets to all; this process fetches from its own only
        queues = tuple(sorted({kind.queue for kind in kinds.values() if kind.queue} | {queue}))
        self._broker = make_broker(settings.tickets_url, settings.namespace, queues)
        self._ledger = Ledger(settings, lambda kind: kinds[kind].time_limit if kind in kinds else 0, metrics)
        limits = limits_of((kind for kind in kinds.values() if kind.queue == queue), settings)
        self._writer = Writer(self._ledger, self._engine, publisher, settings, queue, limits, metrics)
        self._stuck_since: float | None = None
        self._scratch = Scratch()
        self._files = make_files(settings)
        runner = Runner(
            self._ledger,
            kinds,
            handlers,
            max_result=settings.max_result,
            masks=masks,
            scratch=self._scratch,
            files=JobFiles(self._engine, self._files, settings),
        )
        slots = Slots(settings.threads)
        drain = Drain(self._ledger, runner, slots, self._broker, queue, metrics)
        self._standby = StandBy(
            self._engine,
            self._broker,
            publisher,
            drain,
            slots,
            queue,
            own_broker=settings.tickets_url != settings.redis_url,
        )
        self._sweeper = Sweeper(self._engine, self._broker, publisher, settings, kinds, metrics)
        self._housekeeping = Housekeeping(self._engine, publisher, settings, self._files)
        self._registry = Registry(self._engine, self._ledger, settings, queue, handlers)
        dramatiq.actor(actor_name=ACTOR, queue_name=queue, broker=self._broker)(drain)
        self._threads = dramatiq.Worker(
            self._broker, queues={queue}, worker_threads=settings.threads, worker_timeout=_IDLE
        )
        self._threads.queue_prefetch = settings.threads  # fewer would serialise, more would hoard tickets
        self._taking = False
        self._reporter = Reporter(None, self._state, metrics)

    def run(
        self,
        stop: Event,
        ready_file: Path | None = None,
        hurry: Event | None = None,
        report_file: Path | None = None,
    ) -> int:
        """Works until `stop` is set or somebody asks it to leave, then leaves. The exit status: not 0 if it has to be
        replaced. `hurry`: each time that it is set, a wait of the leaving is over. `report_file`: see report.py.
        """
        self._reporter = Reporter(report_file, self._state, self.metrics)
        if not await_schema(self._engine, stop):
            return 0
        self._scratch.open()
        try:
            self._files.prepare()
        except OSError as error:  # jobs that need no files can run
            log.error("the directory of files cannot be used", why=error.strerror)  # noqa: TRY400  # no bug of ours
        self._dispatchers.start()
        self._writer.start()
        self._registry.start()
        self._threads.start()
        self._standby.start()
        self._sweeper.start()
        self._housekeeping.start()
        Thread(target=self._scratch.sweep, name="scratch", daemon=True).start()
        self._taking = True
        self._reporter.turn()
        if ready_file is not None:
            ready_file.touch()
        log.info("worker ready", queue=self._queue, threads=self._settings.threads, pid=os.getpid())
        draining = False
        while not stop.wait(_PERIOD):
            self._reporter.turn()
            if self._ledger.broken:
                return 1
            if self._stuck():
                log.error(
                    "half of the threads are held by handlers that do not end: leaving to be replaced",
                    abandoned=self._ledger.abandoned,
                    threads=self._settings.threads,
                )
                self._leave(hurry or Event())
                return 1
            if draining and not self._ledger.running:
                break
            if self._registry.drain_requested and not draining:
                draining = True
                log.info("worker drained: it leaves once what runs has ended", running=self._ledger.running)
                self._take_no_more()
        self._leave(hurry or Event())
        return 0

    def _state(self) -> State:
        return State(
            taking=self._taking and not self._ledger.broken,
            postgresql=self._registry.postgresql_up,
            redis=self._standby.redis_up,
            threads=self._settings.threads,
            memory=resident_memory(),
            **self._ledger.standing(),
        )

    def _stuck(self) -> bool:
        """Whether half of the threads have been held for a while by handlers that were abandoned."""
        now = time.monotonic()
        if self._ledger.abandoned * 2 < self._settings.threads:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        return self._stuck_since is not None and now - self._stuck_since >= _STUCK

    def _take_no_more(self) -> None:
        """No more claims, and tickets are left to others. The stand-by goes on: it knows what is there."""
        self._taking = False
        self._ledger.stop_claiming()
        self._registry.draining()
        for consumer in self._threads.consumers.values():
            consumer.stop()

    def _leave(self, hurry: Event) -> None:
        """No more claims, grace for handlers, give the rest back, flush. Nothing here waits without a bound."""
        log.info("worker leaving", running=self._ledger.running)
        self._sweeper.stop()
        self._housekeeping.stop()
        self._standby.stop()
        self._take_no_more()
        if not self._idle_within(self._settings.drain_grace, hurry):
            self._ledger.interrupt_all("given_back")
            if not self._idle_within(self._settings.cancel_grace, hurry):
                self._ledger.give_up()
        if not self._writer.stop(_FLUSH):
            log.warning("what was not committed is left to its lease")
        # Dramatiq joins its threads, stuck ones included: in a thread of ours that nobody waits for
        stopping = Thread(target=self._threads.stop, kwargs={"timeout": int(_FLUSH * 1000)}, daemon=True)
        stopping.start()
        stopping.join(_FLUSH)
        self._scratch.close()
        self._dispatchers.stop()
        self._registry.leave()
        self._reporter.end()
        until = time.monotonic() + _ROUNDS
        for part in (self._sweeper, self._housekeeping, self._standby):  # what they have lent is closed once it is back
            part.join(max(0.0, until - time.monotonic()))
        self._engine.dispose()
        self._redis.close()
        self._broker.close()

    def _idle_within(self, seconds: float, hurry: Event) -> bool:
        until = time.monotonic() + seconds
        while self._ledger.running:
            self._reporter.turn()
            if time.monotonic() >= until or hurry.wait(0.02):
                hurry.clear()
                return False
        return True


def settle_interpreter() -> None:
    """To be called once all is loaded, by a process that is nothing but a worker."""
    sys.setswitchinterval(_SWITCH)
    # what is loaded by now stays: the collector need not look through it again and again, with all threads waiting
    gc.collect()
    gc.freeze()


def quiet_dramatiq() -> None:
    """Its complaints about a lost broker are the stand-by's to make, once."""
    logging.getLogger("dramatiq").setLevel(logging.CRITICAL + 1)
