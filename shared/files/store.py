"""What can be done with files, wherever they are. All of it blocks: to be called in a thread.

Everything raises Unavailable where the store is away or refuses us, and DiskFull where it has no space.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from uuid import UUID

PIECE = 2**20
"""Bytes that are read at once: what somebody who downloads a file costs in memory."""

STALE = 24 * 3600
"""Seconds after which an unfinished file was left by a process that died: no request or job takes that long."""


class Incoming(Protocol):
    """A file that is being received: `write()`, then `keep()`; or `discard()`, at any time, which leaves nothing.

    Nothing is found under its id before `keep()`, which returns once it would be found after a power cut.
    """

    size: int
    """Bytes so far."""

    def write(self, data: bytes) -> None: ...

    def keep(self) -> None: ...

    def discard(self) -> bool:
        """Also twice. False: it may be found yet, as the store is away: its row has to stay, for whoever removes it."""


class Files(Protocol):
    directory: Path | None
    """Where the files lie as files, each called by its id; None: nowhere on this machine."""

    def prepare(self) -> None:
        """Makes ready what is to be there before the first file is, and says in the log what is wrong with it. Returns
        at once also while a store is away. Raises OSError for a directory that cannot be made.
        """

    def receive(self, file_id: UUID) -> Incoming: ...

    def read(self, file_id: UUID, start: int, size: int) -> bytes:
        """So many bytes from there on, fewer only at its end. Raises FileNotFoundError."""

    def remove(self, file_id: UUID) -> None:
        """It is gone, or was. Raises OSError where that cannot be."""

    def tidy(self) -> None:
        """Removes what processes that died have left unfinished, once it is STALE."""


def pieces(files: Files, file_id: UUID) -> Iterator[bytes]:
    """All of a file. Raises FileNotFoundError, at the first one."""
    start, piece = 0, b""
    while not start or len(piece) == PIECE:
        piece = files.read(file_id, start, PIECE)
        start += len(piece)
        yield piece
        if not piece:
            return
