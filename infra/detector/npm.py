"""Files of a package that npm fetches from wherever it is configured to."""

import hashlib
import re
import shutil
import subprocess
import tarfile
from base64 import b64encode
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from infra.detector.errors import BuildError

TIMEOUT_SECONDS = 300
# npm itself waits 10 and then 60 seconds between its attempts, in which a person would think that it hangs
RETRIES = ("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")


class Package(Struct, frozen=True):
    name: str
    version: str
    integrity: str
    """Of its tarball, as lock files have it: sha512-<base64>."""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def fetch(package: Package, members: Iterable[str]) -> dict[str, bytes]:
    """Contents of `members` (paths in the package), from npm's cache if it is there. Runs no script of the package and
    writes none of its files. Raises BuildError.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise BuildError("npm is needed to fetch the model, and there is none here; it comes with Node.js")
    with TemporaryDirectory(prefix="headway-detector-") as name:
        folder = Path(name)
        command = [npm, "pack", str(package), "--prefer-offline", "--ignore-scripts", "--loglevel=error", *RETRIES]
        try:
            # in an empty folder, so that no project's settings count
            done = subprocess.run(  # noqa: S603 - fixed words
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"npm did not fetch {package} within {TIMEOUT_SECONDS} seconds") from None
        tarballs = list(folder.glob("*.tgz"))
        if done.returncode or len(tarballs) != 1:
            raise BuildError(f"npm could not fetch {package}; is there a network? It said: {_said(done.stderr)}")
        tarball = tarballs[0].read_bytes()
    found = "sha512-" + b64encode(hashlib.sha512(tarball).digest()).decode()
    if found != package.integrity:
        raise BuildError(f"what npm fetched as {package} is not what it should be: {found}, not {package.integrity}")
    with tarfile.open(fileobj=BytesIO(tarball), mode="r:gz") as archive:
        files = {entry.name: entry for entry in archive if entry.isfile()}
        return {member: _read(archive, files.get(f"package/{member}"), f"{member} in {package}") for member in members}


def _read(archive: tarfile.TarFile, entry: tarfile.TarInfo | None, what: str) -> bytes:
    file = archive.extractfile(entry) if entry else None
    if file is None:
        raise BuildError(f"there is no {what}")
    return file.read()


def _said(stderr: str) -> str:
    """The first sentence of npm's complaint; the rest is a stack of hints and the place of a log file."""
    lines = (re.sub(r"^npm (error|ERR!)", "", line).strip() for line in stderr.splitlines())
    return next((line for line in lines if line and not line.startswith(("code ", "syscall ", "errno "))), "nothing")
