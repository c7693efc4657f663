"""What the numbers were measured on."""

import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import redis
import sqlalchemy as sa

_SYNCS = 200


def describe(engine: sa.Engine, client: "redis.Redis", directory: Path) -> str:
    """A list for the document; `directory` is where PostgreSQL keeps its data."""
    with engine.connect() as connection:
        postgres = connection.execute(sa.text("SHOW server_version")).scalar_one()
        settings = {
            name: connection.execute(sa.text(f"SHOW {name}")).scalar_one()
            for name in ("fsync", "synchronous_commit", "full_page_writes")
        }
    told = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": sys.version.split()[0],
        "PostgreSQL": f"{postgres}, " + ", ".join(f"{name} {value}" for name, value in settings.items()),
        "Valkey": str(client.info("server").get("valkey_version", "")),
        "disk": f"writing 8 KiB and fdatasync takes {_sync(directory) * 1000:.2f} ms",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }
    return "".join(f"- {name}: {value}\n" for name, value in told.items())


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _sync(directory: Path) -> float:
    """Seconds, the median."""
    path = directory / "sync"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            begin = time.perf_counter()
            file.write(bytes(8192))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    path.unlink()
    return median(times)
