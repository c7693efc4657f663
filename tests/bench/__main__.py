"""`python -m tests.bench [--only NAME]`: measures, prints, and after a whole run writes docs/benchmarks.md."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

from shared.redis_clients import make_redis
from tests.bench import (
    claims,
    creation,
    delivery,
    estimates,
    fairness,
    pickup,
    startup,
    statements,
    throughput,
    updates,
)
from tests.bench.machine import describe
from tests.bench.report import render, write
from tests.bench.results import Result
from tests.bench.servers import Servers, engine, servers
from tests.bench.stream import drain, fanout, idle, latency, stall, storm
from tests.bench.stream.programs import COMPILER
from tests.bench.stream.usage import allow_files

MEASUREMENTS: dict[str, Callable[[Servers], Result]] = {
    "creation": creation.measure,
    "throughput": throughput.measure,
    "pickup": pickup.measure,
    "claims": claims.measure,
    "fairness": fairness.measure,
    "delivery": delivery.measure,
    "statements": statements.measure,
    "updates": updates.measure,
    "estimates": estimates.measure,
    "startup": startup.measure,
}

# these need Linux and a C compiler
STREAM: dict[str, Callable[[Servers], Result]] = {
    "fanout": fanout.measure,
    "idle": idle.measure,
    "latency": latency.measure,
    "storm": storm.measure,
    "stall": stall.measure,
    "drain": drain.measure,
}

_LONGEST = 1500
"""Seconds, after which a run is ended: a measurement that hangs must not hold a machine."""

_LAST_BYTES = 4000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument(
        "--only", choices=[*MEASUREMENTS, *STREAM], help="one measurement, which is printed and not written down"
    )
    only = parser.parse_args().only
    begin = time.monotonic()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(_LONGEST)
    allow_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is stopped on the way out
    with _logs_apart(), servers() as started:
        with engine(started.settings()) as database, make_redis(started.valkey.url) as client:
            machine = describe(database, client, started.directory)
        print(machine)
        results = []
        for name, measure in (MEASUREMENTS | STREAM).items():
            if only in (None, name):
                results.append(_left_out(name) if name in STREAM and COMPILER is None else measure(started))
                print(render(results[-1]), flush=True)
    if only is None:
        write(machine, results)
    print(f"took {time.monotonic() - begin:.0f} s")


def _left_out(name: str) -> Result:
    return Result(name, [], [], note="Left out: it needs Linux, and a C compiler (`cc`) for what makes the load.")


def _too_long(*_: object) -> None:
    raise TimeoutError(f"the measurements took longer than {_LONGEST} s")


@contextmanager
def _logs_apart() -> Iterator[None]:
    """What the processes log is shown only if something fails."""
    kept = os.dup(2)
    with TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_BYTES))
            os.write(kept, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


if __name__ == "__main__":
    main()
