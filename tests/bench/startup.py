"""What `make run` takes from its second start on until it says `ready`, against its two servers alone."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from infra.embedded.postgres import Postgres
from infra.embedded.valkey import Valkey
from tests.bench.results import ROUNDS, Number, Result, Verdict, ratios
from tests.bench.servers import Servers
from tests.support.running import started


def measure(servers: Servers) -> Result:
    home = servers.directory / "home"
    bare_home = servers.directory / "bare"
    sides: dict[str, Callable[[], float]] = {
        "bare": lambda: _bare(bare_home),
        "quiet": lambda: _start(home, "--no-demo"),
        "demo": lambda: _start(home),
    }
    for side in sides.values():
        side()  # the first start makes what later ones find
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            times[name].append(side())
    return Result(
        "startup: from the second start on, until `ready`",
        [
            Number("bare: PostgreSQL and Valkey alone, until both answer", "s", times["bare"]),
            Number("`make run DEMO=0`", "s", times["quiet"]),
            Number("`make run`", "s", times["demo"]),
        ],
        [Verdict("`make run DEMO=0` against the servers alone", "times", ratios(times["quiet"], times["bare"]))],
    )


def _start(home: Path, *arguments: str) -> float:
    """What `make run` executes, make itself apart. The detector is named, so that none is fetched."""
    begin = time.perf_counter()
    with started(home, *arguments, HEADWAY_DETECTOR=str(home / "none.onnx")):
        return time.perf_counter() - begin


def _bare(home: Path) -> float:
    with ExitStack() as stack:
        begin = time.perf_counter()
        for server in (Postgres(home / "postgres"), Valkey(home / "valkey")):
            stack.callback(server.stop)
            server.start()
        return time.perf_counter() - begin
