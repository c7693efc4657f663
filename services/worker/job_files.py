"""The files of jobs that run here: uploads are brought to them, and artifacts taken from them."""

import os
import re
import stat
import time
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import structlog
from msgspec import structs
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from uuid_utils.compat import uuid7

from services.worker.run import Interrupted, Run
from shared import queries
from shared.errors import DiskFull, Unavailable
from shared.events import Artifact as Stored
from shared.files import STALE, Files, pieces
from shared.media import HEAD, media_type
from shared.settings import Settings
from shared.updates import Artifact, Fatal, FilesAway, Job, Retryable

_PIECE = 256 * 2**10
"""Bytes between two looks at whether the job is to end."""

_LONGEST_NAME = 200
"""Characters."""

_NAME = re.compile(rf"[^/\\]{{1,{_LONGEST_NAME}}}")
_TYPE = re.compile(r"[\w!#$&^.+-]{1,60}/[\w!#$&^.+-]{1,60}(?:; ?charset=[\w-]{1,30})?", re.ASCII)

_PAUSE = (0.1, 2.0)
"""Seconds between attempts to store an artifact while the store or PostgreSQL is away: first and longest."""

log = structlog.get_logger(__name__)


class JobFiles:
    """For the handlers' threads. `engine` needs one connection for all of them."""

    def __init__(self, engine: Engine, files: Files, settings: Settings) -> None:
        self._engine = engine
        self._files = files
        self._longest = settings.max_artifact
        self._most = settings.max_artifacts

    @property
    def elsewhere(self) -> bool:
        """Whether uploads have to be brought to a job: they are in no directory that it could read."""
        return self._files.directory is None

    def given(self, job: Job, place: Path) -> Job:
        """The job, with uploads that come to `place` once it asks for them."""
        return structs.replace(job, uploads=place, fetch=self._fetch)

    def _fetch(self, upload_id: UUID, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        content = pieces(self._files, upload_id)
        try:
            piece: bytes | None = next(content)
        except FileNotFoundError:
            return
        except Unavailable:
            raise FilesAway from None
        try:
            with partial.open("wb") as file:
                while piece is not None:
                    file.write(piece)
                    piece = next(content, None)
            partial.rename(path)
        except Unavailable:
            raise FilesAway from None
        finally:
            partial.unlink(missing_ok=True)

    def store(self, run: Run, artifact: Artifact) -> Stored:
        """The file is there, and is the job's once that is committed; until then its row says that it is to go.

        Waits while the store or PostgreSQL is away. Raises Interrupted meanwhile; Fatal; Retryable without space.
        """
        name = self._name(run, artifact)
        if not (artifact.content_type is None or _TYPE.fullmatch(artifact.content_type)):
            raise Fatal(f"{artifact.content_type!r} is no content type", code="unusable_artifact")
        file_id, pause = uuid7(), _PAUSE[0]
        with self._content(run.job, artifact) as content:
            while True:
                try:
                    self._announce(run, file_id, name)
                    return self._stored(run, file_id, name, artifact.content_type, content)
                except (Unavailable, DBAPIError, NoConnection):  # both are said by others
                    _wait(run, pause)
                    pause = min(_PAUSE[1], pause * 2)
                except DiskFull as error:
                    raise Retryable(f"there is no space for {name}", code="artifact_no_space") from error

    def _name(self, run: Run, artifact: Artifact) -> str:
        name = run.mask(artifact.name)
        if not _NAME.fullmatch(name) or not name.isprintable() or name in {".", ".."}:
            raise Fatal(
                f"{name[:_LONGEST_NAME]!r} cannot be an artifact's name: 1 to {_LONGEST_NAME} characters, no slashes",
                code="unusable_artifact",
            )
        run.artifacts.add(name)
        if len(run.artifacts) > self._most:
            raise Fatal(f"more than {self._most} artifacts: {name} is one too many", code="too_many_artifacts")
        return name

    def _announce(self, run: Run, file_id: UUID, name: str) -> None:
        row = {"id": file_id, "attempt": run.job.attempt, "name": name, "ttl": STALE}
        with self._engine.begin() as connection:
            connection.execute(queries.ADD_ARTIFACT, row)

    def _stored(self, run: Run, file_id: UUID, name: str, content_type: str | None, content: BinaryIO) -> Stored:
        content.seek(0)
        head = b""
        incoming = self._files.receive(file_id)
        try:
            while piece := content.read(_PIECE):
                _look(run)
                head = head or piece[:HEAD]
                self._check_size(name, incoming.size + len(piece))  # it may have grown
                incoming.write(piece)
            incoming.keep()
        except BaseException:
            incoming.discard()
            raise
        return Stored(str(file_id), name, incoming.size, content_type or media_type(head))

    def _content(self, job: Job, artifact: Artifact) -> BinaryIO:
        if isinstance(artifact.content, bytes):
            return BytesIO(artifact.content)
        try:
            place = job.directory.resolve()
            path = (place / artifact.content).resolve(strict=True)
            # where a command or a container may have put a link to what is not the owner's to see
            if not path.is_relative_to(place):
                raise Fatal(f"{artifact.name} is not in the job's directory", code="unusable_artifact")
            opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise Fatal(f"{artifact.name} cannot be read: {error.strerror}", code="unusable_artifact") from error
        if not stat.S_ISREG(os.fstat(opened).st_mode):  # looked at first: `fdopen` leaves a directory open
            os.close(opened)
            raise Fatal(f"{artifact.name} is no file", code="unusable_artifact")
        return os.fdopen(opened, "rb")

    def _check_size(self, name: str, size: int) -> None:
        if size > self._longest:
            raise Fatal(f"{name} is longer than {self._longest} bytes", code="artifact_too_large")


def _look(run: Run) -> None:
    if run.interrupt:
        raise Interrupted("lost" if run.abandoned else run.interrupt)


def _wait(run: Run, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        _look(run)
        time.sleep(0.05)
