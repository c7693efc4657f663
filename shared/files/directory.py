"""Files in a directory that every api and worker process sees."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from shared.errors import DiskFull
from shared.files.store import STALE

_PARTIAL = ".part"

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DirectoryFiles:
    """See Files. Unfinished ones are `<id>.part`."""

    def __init__(self, directory: Path) -> None:
        self.directory: Path | None = directory
        self._root = directory

    def prepare(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.tidy()

    def receive(self, file_id: UUID) -> "IncomingFile":
        return IncomingFile(self._path(file_id))

    def read(self, file_id: UUID, start: int, size: int) -> bytes:
        with self._path(file_id).open("rb", buffering=0) as file:
            file.seek(start)
            data = file.read(size)
            while len(data) < size and (more := file.read(size - len(data))):
                data += more
        return data

    def remove(self, file_id: UUID) -> None:
        self._path(file_id).unlink(missing_ok=True)

    def tidy(self) -> None:
        for partial in self._root.glob(f"*{_PARTIAL}"):
            with suppress(FileNotFoundError):  # another process tidies up as well
                if time.time() - partial.stat().st_mtime > STALE:
                    partial.unlink()

    def _path(self, file_id: UUID) -> Path:
        return self._root / str(file_id)


class IncomingFile:
    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._partial = path.with_name(path.name + _PARTIAL)
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
        with _space():
            os.fsync(self._file)
            self._close()
            self._partial.rename(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def discard(self) -> bool:
        with suppress(OSError):
            self._close()
        self._partial.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)
        return True

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._file)


@contextmanager
def _space() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFull("the disk for files is full") from None
        raise
