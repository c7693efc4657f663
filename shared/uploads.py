"""Where uploaded files are: one directory, each file named by its upload's id and complete as soon as it is there."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from shared.errors import DiskFull

_PARTIAL = ".part"

STALE = 24 * 3600
"""Seconds after which an unfinished file was left by a process that died: no request takes that long."""

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def upload_path(root: Path, upload_id: UUID) -> Path:
    return root / str(upload_id)


class IncomingFile:
    """A file that is being received: `write()`, then `keep()`; or `discard()`, at any time, which leaves nothing.

    Blocks on the disk: to be used in a thread. Raises DiskFull.
    """

    def __init__(self, root: Path, upload_id: UUID) -> None:
        self.size = 0
        self._path = upload_path(root, upload_id)
        self._partial = self._path.with_name(self._path.name + _PARTIAL)
        with _space():
            self._file = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._open = True

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            with _space():
                written = os.write(self._file, rest)
            self.size += written
            rest = rest[written:]

    def keep(self) -> None:
        """Makes it a file that is found, also after a power cut."""
        with _space():
            os.fsync(self._file)
            self._close()
            self._partial.rename(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def discard(self) -> None:
        with suppress(OSError):
            self._close()
        self._partial.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._file)


def prepare(root: Path) -> None:
    """Makes the directory, and removes what processes that died have left half-written in it."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for partial in root.glob(f"*{_PARTIAL}"):
        with suppress(FileNotFoundError):  # another process tidies up as well
            if time.time() - partial.stat().st_mtime > STALE:
                partial.unlink()


@contextmanager
def _space() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFull("the disk for uploads is full") from None
        raise
