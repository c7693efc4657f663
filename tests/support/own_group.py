"""What an image will hold, made of links: the packages of its own requirement file, and the code that the Dockerfile
copies into it. Nothing is installed: `make lock` gives all groups the versions of `dev`, which is what runs here.
"""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker

from infra.ci.pins import PIN, requirements

ROOT = Path(__file__).parents[2]

_STAGE = re.compile(r"^FROM (?P<base>\S+) AS (?P<name>\S+)$")
_COPY = re.compile(r"^COPY (?!--from)(?P<sources>.+) (?P<target>\S+)$")


def packages(group: str) -> list[str]:
    """The names in requirements/GROUP.txt that count on this platform and Python."""
    pins = [PIN.fullmatch(text) for _, text in requirements(ROOT / "requirements" / f"{group}.txt")]
    return [pin["name"] for pin in pins if pin and (not pin["marker"] or Marker(pin["marker"]).evaluate())]


def copied(image: str) -> dict[str, str]:
    """What the Dockerfile copies from the checkout into an image, by where it is in it, from /app on."""
    stages: dict[str, tuple[str, dict[str, str]]] = {}
    name = ""
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if found := _STAGE.match(line):
            name = found["name"]
            stages[name] = (found["base"], {})
        elif found := _COPY.match(line):
            for source in found["sources"].split():
                directory = (ROOT / source).is_dir()
                target = found["target"] if directory else f"{found['target']}{Path(source).name}"
                stages[name][1][target.rstrip("/")] = source
    base, own = stages[image]
    return (copied(base) if base in stages else {}) | own


class OwnGroup:
    """Of one image, in `directory`."""

    def __init__(self, image: str, directory: Path) -> None:
        self._packages = directory / "packages"
        self._code = directory / "code"
        for name in packages(image):
            for file in metadata.files(name) or ():
                self._link(self._packages / file, Path(str(file.locate())))
        for target, source in copied(image).items():
            self._link(self._code / target, ROOT / source)

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        """Python code that finds the standard library, these packages and this code, and nothing else."""
        begin = f"import sys; sys.path += {[str(self._code), str(self._packages)]!r}\n"
        return subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-W", "ignore", "-c", begin + code],
            cwd=self._code,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def _link(self, link: Path, file: Path) -> None:
        if ".." in link.parts:  # a program
            return
        if link.is_dir() and not link.is_symlink():  # something of it is there already
            for inner in file.iterdir():
                self._link(link / inner.name, inner)
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(file)
