"""Clocks that can be set: each process has its own, of which all that it starts goes by, too. Needs libfaketime."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from infra.embedded.postgres import Postgres
from tests.support.needs import needs

_LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
"""Where Debian and its like put it."""


class Clocks:
    """Wall clocks, by name; they show the true time until they are `set`. Nobody else's time is touched."""

    def __init__(self, directory: Path) -> None:
        needs("libfaketime", there=_LIBRARY is not None)
        self._directory = directory

    def environment(self, name: str) -> dict[str, str]:
        """Of a process that is to go by this clock."""
        self.set(name, 0)
        return {
            "LD_PRELOAD": str(_LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file(name)),
            "FAKETIME_NO_CACHE": "1",  # it is looked at each time
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": str(Path(__file__).with_name("clocked")),
        }

    def set(self, name: str, ahead: int) -> None:
        """`ahead` of the true time, in seconds; negative: behind it."""
        new = self._directory / "clock.new"
        new.write_text(f"{ahead:+d}\n")
        new.chmod(0o644)
        new.replace(self._file(name))

    def close(self) -> None:
        """Those that went by these clocks have ended, some of them without a chance to remove what they shared."""
        for path in Path("/dev/shm").glob("*faketime_s*_*"):  # noqa: S108  # the library has no other place
            pid = path.name.rpartition("_")[2]
            if pid.isdigit() and not Path("/proc", pid).exists():
                path.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._directory / f"clock-{name}"


class ClockedPostgres(Postgres):
    """Goes by the clock `postgres`."""

    def __init__(self, directory: Path, clocks: Clocks) -> None:
        super().__init__(directory)
        self._clock = clocks.environment("postgres")

    def _command(self) -> Sequence[str | Path]:
        variables = [f"{name}={value}" for name, value in self._clock.items()]
        return [shutil.which("env") or "env", *variables, *super()._command()]
