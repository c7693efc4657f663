"""What a job handler receives, yields and raises: all that the author of a handler has to know."""

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID

from msgspec import Struct

Level = Literal["phase", "info", "success", "warn", "error", "log"]


class Items(Struct, frozen=True):
    """Progress of a job that works through many things; failed ones are not done."""

    done: int
    failed: int = 0
    total: int = 0


class Progress(Struct, frozen=True):
    """How far the job is: `percent` from 0 to 99 (100 is reached by returning); what is None stays as it was."""

    percent: float | None = None
    message: str | None = None
    items: Items | None = None


class Step(Struct, frozen=True):
    """The job has entered a named step; it also leaves a log line of level `phase`."""

    name: str
    percent: float | None = None


class Log(Struct, frozen=True):
    """One line for the job's log."""

    text: str
    level: Level = "log"


class Metadata(Struct, frozen=True):
    """What else is to be seen of the job while it runs and afterwards, as an object of JSON. It replaces what an
    earlier one said; an attempt begins without.
    """

    value: Mapping[str, Any]


class Checkpoint(Struct, frozen=True):
    """How far the work is, for the next attempt, which finds it in `job.checkpoint`: whatever JSON can hold.

    Nobody is shown it. It is stored within a tenth of a second: after a crash, the last but one may be what is found.
    """

    value: Any


class Artifact(Struct, frozen=True):
    """A file for the job's owner to download: `content` is a file in `job.directory`, or the bytes themselves.

    It is stored before the handler goes on, which may then change or remove its own. One of the same name takes the
    place of the one before, an earlier attempt's too. Nothing is masked in it.
    """

    content: Path | bytes
    name: str
    """1 to 200 characters, without slashes: what the file is called where it is downloaded."""
    content_type: str | None = None
    """What it is, `text/csv` say; None: what its first bytes say."""


Update = Progress | Step | Log | Metadata | Checkpoint | Artifact


class Job(Struct, frozen=True):
    """The job as its handler sees it. `attempt` counts from 1 and never repeats."""

    id: UUID
    batch_id: UUID
    owner: str
    name: str
    attempt: int
    uploads: Path
    """The directory of uploaded files; a handler asks for `upload(id)`. Files that lie elsewhere come here."""
    checkpoint: Any = None
    """What an earlier attempt gave as its last `Checkpoint`; None: nothing."""
    scratch: Path | None = None
    """Where `directory` is to be; a test that needs one says where."""
    traceparent: str | None = None
    """This attempt's place in a trace, as W3C writes it, for programs that are told of it; None: it is in none."""
    tracestate: str = ""
    fetch: Callable[[UUID, Path], None] | None = None
    """Brings an uploaded file that lies elsewhere to a path, if there is such a file. Raises FilesAway."""

    def upload(self, upload_id: UUID) -> Path:
        """The uploaded file that the job's parameters name, to be read only. If it is gone, there is no such file.

        Raises FilesAway, which is nothing for a handler to catch: the job comes back when the files have.
        """
        path = self.uploads / str(upload_id)
        if self.fetch is not None and not path.exists():
            self.fetch(upload_id, path)
        return path

    @property
    def directory(self) -> Path:
        """An empty directory of this attempt's own, made when it is first asked for and removed when the attempt ends,
        however it does.
        """
        if self.scratch is None:
            raise ValueError("this job was made without a `scratch`, the place of its directory")
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.scratch


Result = TypeVar("Result")
Updates = Generator[Update | None, None, Result]
"""What a handler is to return: a generator of updates whose return value is the job's result (what msgspec encodes).

None is no news: only a moment at which the job may be ended, which costs next to nothing."""

Handler = Callable[[Any, Job], Updates[Any]]


class JobError(Exception):
    """A failure with a code for programs (`lower_case`) and a sentence for people."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Fatal(JobError):
    """Trying again would not help: the job fails at once."""

    def __init__(self, message: str, *, code: str = "failed") -> None:
        super().__init__(message, code=code)


class FilesAway(JobError):
    """The store of files cannot be reached: the job is queued again, which costs it no attempt of its kind's."""

    def __init__(self, message: str = "the store of files cannot be reached") -> None:
        super().__init__(message, code="files_away")


class Retryable(JobError):
    """Worth another attempt, if the kind allows one; `after` is a wait in seconds, a day at most, instead of the
    usual backoff.
    """

    def __init__(self, message: str, *, code: str = "failed", after: float | None = None) -> None:
        super().__init__(message, code=code)
        self.after = after
