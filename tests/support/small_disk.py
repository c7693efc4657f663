"""A small disk that a process, and whatever it starts, finds in place of a directory: nobody else sees it there.

And one for files of this process alone, of which none may get too long.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.needs import needs

# Arguments: the directory, the bytes, and the command, which this becomes.
_MOUNT = 'mount -t tmpfs -o "size=$2,mode=0700" small "$1" && shift 2 && exec "$@"'
_FILLER = "filler"


def on_small_disk(directory: Path, size: int) -> list[str]:
    """To be put before a command; `size` in bytes. The test is skipped where nobody may mount (in CI it fails)."""
    own = [shutil.which("unshare") or "unshare", "--mount", "--propagation", "private"]
    become = []
    if os.geteuid() != 0:
        own += ["--user", "--map-root-user"]
        # back to who it was: PostgreSQL refuses to run as root
        become = [own[0], "--user", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}"]
    directory.mkdir(exist_ok=True)
    within = [*own, "sh", "-c", _MOUNT, "sh", str(directory), str(size), *become]
    needs("disk of its own for a process", there=_works([*within, "true"]))
    return within


class SmallDisk:
    """That of a process, as others may come to it."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.path = Path(f"/proc/{pid}/root", *directory.resolve().parts[1:])

    @property
    def free(self) -> int:
        """Bytes."""
        disk = os.statvfs(self.path)
        return disk.f_bfree * disk.f_bsize

    def fill(self) -> None:
        """Nothing is left, however often this is called."""
        with (self.path / _FILLER).open("ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                assert self.free == 0

    def clear(self) -> None:
        (self.path / _FILLER).unlink(missing_ok=True)


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """A disk that is full, as far as any process without privileges can have one: no file may grow past `size`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except FileNotFoundError:
        return False
