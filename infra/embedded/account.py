"""The account of the operating system that a server runs as."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

# "nobody". It must be an account that exists: initdb wants to know its own name. That is why a user namespace
# with some number of its own will not do, apart from container runtimes that refuse to make one.
_NOBODY: Final = 65534


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int

    @classmethod
    def owning(cls, directory: Path) -> Self | None:
        """Whom to become so that a server may use `directory`; None: stay who we are, for we are not root.

        PostgreSQL refuses to run as root. What root owns is handed to nobody; a directory of a user (root
        by sudo) stays theirs, so that they can use it without sudo too.
        """
        if os.geteuid() != 0:
            return None
        found = directory.stat()
        if found.st_uid != 0:
            return cls(found.st_uid, found.st_gid)
        account = cls(_NOBODY, _NOBODY)
        for folder, folders, files in os.walk(directory):
            for name in folders + files:
                os.chown(Path(folder, name), account.uid, account.gid, follow_symlinks=False)
        os.chown(directory, account.uid, account.gid)  # last: it says that the rest is done
        return account

    def reaches(self, path: Path) -> bool:
        """Whether the mode bits let this account pass every directory on the way and read and run the end."""
        way = path.resolve()
        return self._allows(way, stat.S_IROTH | stat.S_IXOTH) and all(
            self._allows(parent, stat.S_IXOTH) for parent in way.parents
        )

    def _allows(self, path: Path, bits: int) -> bool:
        found = path.stat()
        if found.st_uid == self.uid:
            bits <<= 6  # the owner's bits stand six places above everybody's
        return found.st_mode & bits == bits
