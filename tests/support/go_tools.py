"""Programs and files for tests that exist in Go modules only: `python -m tests.support.go_tools` gets them, once.

To build the programs takes a minute or two, longer than a test may. Where they are missing their tests are skipped, in
CI they fail. What comes is what everybody gets: Go compares each module with its public checksum database.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.support.needs import needs, program


class Files(NamedTuple):
    """A folder of a module."""

    module: str
    """`path@version`"""

    folder: str


KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.8.2"
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"

COMPOSE = Files("github.com/docker/compose/v2@v2.40.3", "cmd")
"""A program. `go install` refuses it: its module excludes others."""

ENVOY_GATEWAY = Files("github.com/envoyproxy/gateway@v1.9.1", "charts/gateway-helm/charts/crds/crds/generated")
GATEWAY_API = Files("sigs.k8s.io/gateway-api@v1.6.3", "config/crd/standard")
KEDA = Files("github.com/kedacore/keda/v2@v2.21.0", "config/crd/bases")
PROMETHEUS_OPERATOR = Files(
    "github.com/prometheus-operator/prometheus-operator@v0.85.0", "example/prometheus-operator-crd"
)

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headway-tests"


def go_tool(module: str) -> Path:
    """The program of `module`, which is `path@version`."""
    return _there(_place(module))


def go_files(files: Files) -> Path:
    """The folder, without what is in folders of it."""
    return _there(_place(files.module))


def build(module: str) -> None:
    """Raises CalledProcessError."""

    def install(building: Path) -> None:
        _go("install", module, cwd=building.parent, into=building)
        (building / _place(module).name).rename(_place(module))  # whole as soon as it is there

    _once(_place(module), install)


def build_there(files: Files) -> None:
    """In its module's own folder, by that module's rules. Raises CalledProcessError."""

    def compile_it(building: Path) -> None:
        told = msgspec.json.decode(_go("mod", "download", "-json", files.module, cwd=building.parent))
        _go("build", "-o", str(building), f"./{files.folder}", cwd=Path(told["Dir"]))
        building.rename(_place(files.module))

    _once(_place(files.module), compile_it)


def fetch(files: Files) -> None:
    """Raises CalledProcessError."""

    def copy(building: Path) -> None:
        told = msgspec.json.decode(_go("mod", "download", "-json", files.module, cwd=building.parent))
        building.mkdir(exist_ok=True)
        for file in (Path(told["Dir"]) / files.folder).iterdir():
            if file.is_file():
                shutil.copyfile(file, building / file.name)  # not its mode: Go keeps modules from being written
        building.rename(_place(files.module))

    _once(_place(files.module), copy)


def _once(place: Path, make: Callable[[Path], None]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # somebody else may be making it
        if not place.exists():
            make(place.parent / "building")


def _go(*arguments: str, cwd: Path, into: Path | None = None) -> bytes:
    done = subprocess.run(
        [program("go"), *arguments],
        check=True,
        stdout=subprocess.PIPE,
        timeout=1200,
        cwd=cwd,  # which belongs to no module, or to the one that is built
        # a module that wants a newer Go than there is gets it, as a module like any other
        env={
            **os.environ,
            "GOTOOLCHAIN": "auto",
            "GOFLAGS": "-modcacherw",
            "CGO_ENABLED": "0",
            **({"GOBIN": str(into)} if into else {}),
        },
    )
    return done.stdout


def _there(place: Path) -> Path:
    needs(f"{place.name} (python -m tests.support.go_tools gets it)", there=place.exists())
    return place


def _place(module: str) -> Path:
    path, _, version = module.partition("@")
    *_, before, last = path.split("/")
    name = before if last[0] == "v" and last[1:].isdigit() else last
    return _CACHE / f"{name}-{version}" / name


if __name__ == "__main__":
    for each in (KUSTOMIZE, VERSITYGW):
        build(each)
        sys.stdout.write(f"{_place(each)}\n")
    build_there(COMPOSE)
    sys.stdout.write(f"{_place(COMPOSE.module)}\n")
    for folder in (ENVOY_GATEWAY, GATEWAY_API, KEDA, PROMETHEUS_OPERATOR):
        fetch(folder)
        sys.stdout.write(f"{_place(folder.module)}\n")
