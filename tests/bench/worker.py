"""`python -m tests.bench.worker headway|dramatiq`: a worker process with handlers that do nothing.

Says `ready` once all is loaded, begins to work at a line on its standard input, and ends with that.
"""

import sys
import time
from threading import Event, Thread

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from msgspec import Struct

from services.worker.process import WorkerProcess, quiet_dramatiq, settle_interpreter
from shared.kinds import KINDS
from shared.kinds.kind import Kind
from shared.logs import configure_logs
from shared.settings import Settings, load_settings
from shared.updates import Job, Updates

QUEUE = "default"


class Nothing(Struct):
    """No parameters."""


def nothing(params: Nothing, job: Job) -> Updates[None]:
    yield from ()


def moment(params: Nothing, job: Job) -> Updates[float]:
    """When it began, by the clock that all processes of this machine share."""
    begun = time.monotonic()
    yield from ()
    return begun


NOTHING = Kind(name="nothing", title="Nothing", params=Nothing, queue=QUEUE)
MOMENT = Kind(name="moment", title="Moment", params=Nothing, queue=QUEUE)


def bare_namespace(settings: Settings) -> str:
    return f"{settings.namespace}bare"


def bare_broker(settings: Settings) -> RedisBroker:
    """Dramatiq as its manual has it, middleware and all."""
    return RedisBroker(url=settings.redis_url, namespace=bare_namespace(settings))


def bare_actor(broker: RedisBroker) -> "dramatiq.Actor[[], None]":
    @dramatiq.actor(actor_name="nothing", queue_name=QUEUE, broker=broker)
    def nothing() -> None:
        pass

    return nothing


def bare_stamp(broker: RedisBroker) -> "dramatiq.Actor[[str], None]":
    """Leaves the moment of its start under the given name."""

    @dramatiq.actor(actor_name="moment", queue_name=QUEUE, broker=broker)
    def moment(name: str) -> None:
        begun = time.monotonic()
        broker.client.rpush(name, repr(begun))

    return moment


def main() -> None:
    settings = load_settings()
    configure_logs(settings.log_format, "worker")
    quiet_dramatiq()
    if sys.argv[1] == "headway":
        _headway(settings)
    else:
        _dramatiq(settings)


def _headway(settings: Settings) -> None:
    kinds = {**KINDS, NOTHING.name: NOTHING, MOMENT.name: MOMENT}
    process = WorkerProcess(settings, QUEUE, kinds, {NOTHING.name: nothing, MOMENT.name: moment})
    settle_interpreter()
    stop = Event()
    _await_start()
    Thread(target=_stop_at_end, args=(stop,), daemon=True).start()
    process.run(stop)


def _dramatiq(settings: Settings) -> None:
    broker = bare_broker(settings)
    bare_actor(broker)
    bare_stamp(broker)
    worker = dramatiq.Worker(broker, worker_threads=settings.threads)
    stop = Event()
    _await_start()
    worker.start()
    _stop_at_end(stop)
    worker.stop()


def _await_start() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def _stop_at_end(stop: Event) -> None:
    sys.stdin.read()
    stop.set()


if __name__ == "__main__":
    main()
