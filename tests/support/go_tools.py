"""Programs that tests run and that exist as Go modules only: `python -m tests.support.go_tools` builds them, once.

That takes a minute or two, longer than a test may. Where they are not built their tests are skipped, in CI they fail.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from tests.support.needs import needs, program

KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.8.2"
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headway-tests"


def go_tool(module: str) -> Path:
    """The program of `module`, which is `path@version`."""
    built = _place(module)
    needs(f"{built.name} (python -m tests.support.go_tools builds it)", there=built.exists())
    return built


def build(module: str) -> None:
    """Raises CalledProcessError."""
    built = _place(module)
    built.parent.mkdir(parents=True, exist_ok=True)
    with (built.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # somebody else may be building it
        if built.exists():
            return
        building = built.parent / "building"
        subprocess.run(
            [program("go"), "install", module],
            check=True,
            timeout=1200,
            cwd=built.parent,  # which belongs to no module
            # a module that wants a newer Go than there is gets it, as a module like any other
            env={
                **os.environ,
                "GOTOOLCHAIN": "auto",
                "GOFLAGS": "-modcacherw",
                "GOBIN": str(building),
                "CGO_ENABLED": "0",
            },
        )
        (building / built.name).rename(built)  # whole as soon as it is there


def _place(module: str) -> Path:
    path, _, version = module.partition("@")
    *_, before, last = path.split("/")
    name = before if last[0] == "v" and last[1:].isdigit() else last
    return _CACHE / f"{name}-{version}" / name


if __name__ == "__main__":
    for each in (KUSTOMIZE, VERSITYGW):
        build(each)
        sys.stdout.write(f"{_place(each)}\n")
