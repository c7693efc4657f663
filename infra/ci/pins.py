"""Requirement files (`make lock`): every package pinned, every file of it hashed, no address, and the same versions in
all images as in the tests.
"""

import re
from collections.abc import Iterator
from pathlib import Path

FOLDER = "requirements"
# Every other file is a part of this one, but for what CI alone installs, beside it.
WHOLE = "dev"
BESIDE = frozenset({"go"})
PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[\w,-]+\])?==(?P<version>[\w.!+-]+)(?: ; (?P<marker>[^#@]+?))?"
    r"(?: --hash=sha256:[0-9a-f]{64})+"
)


def requirements(path: Path) -> Iterator[tuple[int, str]]:
    """Logical lines with the number of their first physical line; comments and continuation marks removed."""
    start, gathered = 1, ""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = "" if line.lstrip().startswith("#") else line.split(" #")[0].strip()
        if not gathered:
            start = number
        gathered = f"{gathered} {text.removesuffix(chr(92)).strip()}".strip()
        if not text.endswith("\\") and gathered:
            yield start, gathered
            gathered = ""
    if gathered:
        yield start, gathered


def pinned(path: Path) -> set[tuple[str, str]]:
    """(name, version) of each well-formed line; a package may have two versions, for different Pythons."""
    matches = (PIN.fullmatch(text) for _, text in requirements(path))
    return {(match["name"], match["version"]) for match in matches if match}


def problems(root: Path) -> Iterator[str]:
    whole = pinned(root / FOLDER / f"{WHOLE}.txt")
    for path in sorted((root / FOLDER).glob("*.txt")):
        name = f"{FOLDER}/{path.name}"
        for number, text in requirements(path):
            if not PIN.fullmatch(text):
                yield f"{name}:{number}: not a pinned and hashed requirement: {text[:80]}"
        for package, version in sorted(pinned(path) - whole if path.stem not in BESIDE else ()):
            yield f"{name}: {package} {version} is not what {WHOLE}.txt has; run `make lock`"
