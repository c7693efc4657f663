"""What a process takes: processor time and memory, as the kernel counts them."""

import resource
from pathlib import Path


def processor(pid: int) -> float:
    """Seconds, user and system, of all its threads that live; to the nanosecond, where others count in ticks."""
    spent = (path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(map(int, spent)) / 1e9


def resident(pid: int) -> int:
    """Bytes of memory that it holds."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Rss:") * 1024


def peak(pid: int) -> int:
    """The most bytes that it has ever held, or since `forget_peak`."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM:") * 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def descriptors(pid: int) -> int:
    """Files and sockets that it has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def allow_files() -> int:
    """As many open files for this process and its children as they may have; how many that are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def _kilobytes(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(name)
