"""The C programs of the measurements, compiled when they are needed: load must not cost what is to be measured."""

import shutil
import subprocess
import sys
from pathlib import Path

_SOURCES = Path(__file__).parents[1] / "c"

COMPILER = shutil.which("cc") if sys.platform == "linux" else None
"""None: there is nothing to make load with, which asks Linux for what it counts."""

LONGEST = 300
"""Seconds after which each of them ends by itself."""


def compiled(directory: Path, name: str) -> str:
    """The path of `name`, in `directory`."""
    path = directory / name
    if not path.exists():
        assert COMPILER is not None
        subprocess.run([COMPILER, "-O2", "-o", path, _SOURCES / f"{name}.c"], check=True)
    return str(path)
