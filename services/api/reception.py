"""A multipart body with one file, taken apart as it arrives and stored piece by piece."""

from threading import Lock
from uuid import UUID

from multipart import MultipartError, MultipartSegment, PushMultipartParser  # type: ignore[import-untyped]

from shared.errors import FieldError, Malformed, TooLarge
from shared.files import Files, Incoming
from shared.media import HEAD, media_type
from shared.web.validation import invalid

PART = "file"

LONGEST_NAME = 200
"""Characters."""

_MOST_PARTS = 100


class Reception:
    """`feed()` each piece, then `finish()` and `keep()`; or `discard()`, at any time, which leaves nothing behind.

    Blocks on the disk or the store: to be used in a thread. Raises Malformed, TooLarge, Invalid, DiskFull, Unavailable.
    """

    def __init__(self, files: Files, upload_id: UUID, boundary: str, limit: int) -> None:
        """`limit` in bytes of the file."""
        self.name = PART
        self.finished = False
        """All of it has come, and it is as it should be."""
        self._files = files
        self._id = upload_id
        self._limit = limit
        self._file: Incoming | None = None
        self._lock = Lock()
        self._discarded = False
        self._writing = False
        self._head = b""
        self._errors: list[FieldError] = []
        try:
            self._parser = PushMultipartParser(boundary, max_segment_count=_MOST_PARTS)
        except MultipartError as error:
            raise Malformed(str(error)) from None

    @property
    def size(self) -> int:
        return 0 if self._file is None else self._file.size

    @property
    def content_type(self) -> str:
        return media_type(self._head)

    def feed(self, data: bytes) -> None:
        with self._lock:
            if self._parser.closed or self._discarded:
                return  # what follows the last part means nothing
            try:
                for event in self._parser.parse(data):
                    if isinstance(event, MultipartSegment):
                        self._begin(event)
                    elif event:
                        self._take(bytes(event))
            except MultipartError as error:
                raise Malformed(str(error)) from None

    def finish(self) -> None:
        """That was all of it."""
        try:
            self._parser.close()
        except MultipartError as error:
            raise Malformed(str(error)) from None
        if self._file is None:
            self._errors.append(FieldError(PART, "is missing"))
        elif not self._file.size:
            self._errors.append(FieldError(PART, "is empty"))
        if self._errors or self._file is None:
            raise invalid(self._errors)
        self.finished = True

    def keep(self) -> None:
        """The file is there, whatever happens next."""
        with self._lock:
            if self._file is not None and not self._discarded:
                self._file.keep()

    def discard(self) -> bool:
        """Whether nothing can be found of it; otherwise its row has to stay."""
        with self._lock:  # a thread whose request was given up may still be at it
            self._discarded = True
            return self._file is None or self._file.discard()

    def _begin(self, part: MultipartSegment) -> None:
        self._writing = False
        if part.name != PART:
            self._errors.append(FieldError(_printable(part.name)[:LONGEST_NAME], "is not known here"))
        elif self._file is not None:
            self._errors.append(FieldError(PART, "is given twice"))
        else:
            self._writing = True
            self.name = clean_name(part.filename or "")
            self._file = self._files.receive(self._id)

    def _take(self, data: bytes) -> None:
        if not self._writing or self._file is None:
            return
        if self._file.size + len(data) > self._limit:
            raise TooLarge(f"the file is longer than {self._limit} bytes")
        if len(self._head) < HEAD:
            self._head += data[: HEAD - len(self._head)]
        self._file.write(data)


def clean_name(name: str) -> str:
    """The base name that may be shown and stored: no directories, nothing unprintable, not too long."""
    base = _printable(name.replace("\\", "/").rpartition("/")[2]).strip()
    if base in {"", ".", ".."}:
        return PART
    stem, dot, suffix = base.rpartition(".")
    if not stem or len(suffix) >= LONGEST_NAME // 2:
        return base[:LONGEST_NAME]
    return stem[: LONGEST_NAME - len(dot + suffix)] + dot + suffix


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())
