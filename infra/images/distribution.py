"""`python distribution.py PYPROJECT DIRECTORY`: what lets `importlib.metadata` know the version of code that is copied.

Which in an image it is, and not installed. The directory has to be one that Python imports from.
"""

import sys
import tomllib
from pathlib import Path


def describe(pyproject: Path, directory: Path) -> None:
    """Raises OSError."""
    project = tomllib.loads(pyproject.read_text())["project"]
    name, version = project["name"], project["version"]
    folder = directory / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


if __name__ == "__main__":
    describe(Path(sys.argv[1]), Path(sys.argv[2]))
