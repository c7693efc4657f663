"""The memory of processes: what they hold, and the most that they held since somebody last looked."""

from collections.abc import Sequence
from pathlib import Path

_RESET_PEAK = "5"
"""For /proc/PID/clear_refs: the peak is what is held now."""

MB = 2**20

SLACK = 2 * MB
"""What a process may take for reasons of its allocator, which gives back only what is free as a whole."""


def held(pid: int) -> int:
    """Bytes of real memory."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most bytes since `forget_peak`, or since it was started."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)


def assert_flat(peaks: Sequence[int], idle: int) -> None:
    """Of rounds that ask for the same, after some in which whatever is kept for good was made, and an `idle` process
    before all of them: what the last took beyond that is at most a tenth more than what the one before it took.
    """
    *_, second, third = (most - idle for most in peaks)
    told = [f"{most / MB:.1f}" for most in (idle, *peaks)]
    assert third <= 1.1 * second + SLACK, f"idle and then in each round, MB: {told}"


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
