"""Temporary directories of the jobs that run here, and what a worker that was killed left of its own."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

_PREFIX = "headway-worker-"

_USABLE = 0o700

log = structlog.get_logger(__name__)


class Scratch:
    """A directory of this process's own in `parent` (the system's for temporary files unless given), and one in it for
    each attempt that asks.

    It is locked as long as the process lives, which is how others know that it still does.
    """

    def __init__(self, parent: Path | None = None, prefix: str = _PREFIX) -> None:
        """`prefix`: what the directories of all processes of this sort are called, and nothing else in `parent`."""
        self._parent = parent or Path(tempfile.gettempdir())
        self._prefix = prefix
        self._lock: int | None = None
        self._root = self._parent

    @property
    def root(self) -> Path:
        """This process's directory, once it is opened."""
        return self._root

    def open(self) -> None:
        """To be called once, before anything else. Raises OSError."""
        while self._lock is None:
            self._root = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self._parent))
            self._lock = _lock(self._root, wait=True)  # None: somebody swept it before

    def close(self) -> None:
        if self._lock is not None:
            _remove(self._root)
            os.close(self._lock)
            self._lock = None

    def place(self, job_id: UUID, attempt: int) -> Path:
        """Where this attempt's directory is to be. Nothing is made."""
        return self._root / f"{job_id}-{attempt}"

    def uploads(self, job_id: UUID, attempt: int) -> Path:
        """Where uploaded files come that this attempt asks for. Nothing is made."""
        return self._root / f"{job_id}-{attempt}-uploads"

    def remove(self, place: Path) -> None:
        """With all that is in it. What cannot be removed is told of, and left."""
        if place.exists():
            _remove(place)

    def sweep(self) -> None:
        """Removes what workers left that are gone."""
        for directory in self._parent.glob(f"{self._prefix}*"):
            lock = _lock(directory, wait=False)
            if lock is None:
                continue
            _remove(directory)
            os.close(lock)
            log.info("a temporary directory of a worker that is gone was removed", directory=str(directory))


def _lock(directory: Path, *, wait: bool) -> int | None:
    """The open, locked directory. None if somebody has it, it is not a directory of this user's, or it is gone."""
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        found = os.fstat(lock)
        if found.st_uid == os.getuid() and os.path.samestat(found, directory.lstat()):
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory, onerror=partial(_once_more, directory))
    except Exception as error:  # noqa: BLE001  # a tree that is too deep, say
        log.warning("a temporary directory cannot be removed", directory=str(directory), error=str(error))


def _once_more(directory: Path, _remove: Callable[..., Any], path: str, _error: Any) -> None:
    """A directory that a handler made read-only keeps what is in it."""
    place = Path(path)
    try:
        if place != directory:  # where that stands is not ours, but everybody's
            place.parent.chmod(_USABLE)
        elif not place.exists():
            return
        if place.is_symlink() or not place.is_dir():
            place.unlink(missing_ok=True)
        else:
            place.chmod(_USABLE)
            shutil.rmtree(place)
    except OSError as error:
        log.warning("a temporary file cannot be removed", path=path, error=error.strerror)
