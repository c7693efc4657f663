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
    """Of rounds that ask for the same, after some in which whatever is kept for good was made: the peak of the last is
    at most a tenth more than that of the one before it.

    A tenth of a whole process would hide a leak, so it holds too, but for SLACK, of what they took beyond an `idle`
    process: a few megabytes, of which SLACK is as much as a tenth only where a round takes twenty.
    """
    *_, second, third = peaks
    told = f"idle and then in each round, MB: {[f'{most / MB:.1f}' for most in (idle, *peaks)]}"
    assert third <= 1.1 * second, told
    assert third - idle <= 1.1 * (second - idle) + SLACK, told


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
