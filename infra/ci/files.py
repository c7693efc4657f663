"""What would be in the next commit if everything were added: tracked files and new ones that are not ignored."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

# git calls a file binary when there is a zero byte near its beginning; so do we.
SNIFFED_BYTES = 8000


def committable(root: Path) -> list[str]:
    """Paths relative to `root`, sorted. Raises `CalledProcessError` where `root` is not in a git repository."""
    # In CI the files often belong to somebody else than the user who checks them, which git refuses by default.
    command = ["git", "-c", f"safe.directory={root}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout  # noqa: S603 - fixed words
    names = {name.decode(errors="surrogateescape") for name in listed.split(b"\0") if name}
    # A tracked file that was just deleted is still listed.
    return sorted(name for name in names if (root / name).is_symlink() or (root / name).is_file())


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file; for a link the path that it points to; nothing for a binary file."""
    if path.is_symlink():
        yield 1, str(path.readlink())
        return
    content = path.read_bytes()
    if b"\0" not in content[:SNIFFED_BYTES]:
        yield from enumerate(content.decode(errors="replace").splitlines(), start=1)
