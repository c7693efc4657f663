"""The directory of one server: whose it is, who uses it, and files in it that concern nobody else."""

import fcntl
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

# "nobody". It must be an account that exists, because initdb asks for its own name: so a user namespace with some
# number of its own would not do, quite apart from container runtimes that refuse to make one.
_NOBODY: Final = 65534


@dataclass(frozen=True)
class Account:
    """A user of the operating system."""

    uid: int
    gid: int

    def reaches(self, path: Path) -> bool:
        """Whether the mode bits let this account pass every directory on the way, and read and run the end."""
        return self._may(path, stat.S_IROTH | stat.S_IXOTH) and all(
            self._may(parent, stat.S_IXOTH) for parent in path.parents
        )

    def _may(self, path: Path, bits: int) -> bool:
        found = path.stat()
        if found.st_uid == self.uid:
            bits <<= 6  # the owner's bits stand six places above everybody's
        return found.st_mode & bits == bits


class Home:
    """`account` is whom the server must become to use the directory; None: it stays who we are."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.account: Account | None = None

    def enter(self) -> None:
        """Make the directory ours alone, and as root the server's.

        PostgreSQL refuses to run as root. What root owns is handed to nobody; the directory of a user (root
        by sudo) stays theirs, so that they can use it without sudo too.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        if os.geteuid() != 0:
            return
        found = self.path.stat()
        if found.st_uid != 0:
            self.account = Account(found.st_uid, found.st_gid)
            return
        self.account = Account(_NOBODY, _NOBODY)
        for folder, folders, files in os.walk(self.path):
            for name in folders + files:
                os.chown(Path(folder, name), _NOBODY, _NOBODY, follow_symlinks=False)
        os.chown(self.path, _NOBODY, _NOBODY)  # last: it says that the rest is done

    def open(self, path: Path, flags: int = 0) -> BinaryIO:
        """For reading and writing; made when it is not there, with mode 0600."""
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | flags, 0o600)
        if self.account is not None:
            os.fchown(number, self.account.uid, self.account.gid)
        return os.fdopen(number, "r+b")

    def write(self, path: Path, text: str) -> None:
        """All of it or nothing, also when the power fails."""
        new = path.with_name(f"{path.name}.new")
        with self.open(new, os.O_TRUNC) as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    def lock(self, name: str, seconds: float) -> BinaryIO | None:
        """None when somebody else held it all the time. It is free again when every copy of the file is closed."""
        file = self.open(self.path / name)
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                file.close()
                return None
            return file
