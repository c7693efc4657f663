"""Shows the progress of any Python program in Headway: a Celery task, a Django command, a script.

    from headway_tracker import Tracker

    with Tracker("https://headway.example.org", token, title="Nightly import") as t:
        for row in t.track(rows):
            with t.item(row.name):
                load(row)

One file without dependencies, for Python 3.9 and later: copy it into your program. README.md beside it says how it is
used. What it promises: no method raises, waits for the network or prints anything, whatever becomes of Headway. A
thread of its own sends what was said; only `close()`, at the end, waits for it, and not for long. The exceptions are a
wrong type given to `Tracker(...)`, and `check()`, which is asked to raise. It speaks through the logger "headway".
"""

from __future__ import annotations

import atexit
import functools
import http.client
import json
import logging
import math
import operator
import os
import random
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Batch", "Cancelled", "Tracker", "create_batch"]

_INTERVAL = 0.5
"""Seconds between two requests while there is something to say. What came meanwhile goes together."""

_HEARTBEAT = 10.0
"""Seconds of silence after which Headway hears that the work goes on, and we whether it is still wanted."""

_SILENCE = 300.0
"""Seconds of silence after which Headway takes the work for dead, unless told otherwise."""

_TIMEOUT = 10.0
"""Seconds that one request may wait for an answer."""

_BACKOFF = (0.5, 15.0)
"""Seconds: the first pause after a request that failed, and the longest."""

_CLOSE = 5.0
"""Seconds that leaving the work, and then leaving the program, waits for what is still to be sent."""

_LINGER = 600.0
"""Seconds after its close for which a tracker goes on trying to reach Headway."""

_LINGERING = 16
"""Trackers of one process that may do so at once: a queue's worker may run many tasks while Headway is away."""

_MANY = 1000
"""Reports in one request."""

_LARGE = 1_000_000
"""Bytes of one request, and of an answer."""

_LINES = 10_000
_CHARACTERS = 4_000_000
"""Lines, and characters in them, that wait while Headway is away. Then the oldest go."""

_TEXT = 8000
_RESULT = 250_000
_METADATA = 16_000
"""Bytes of a line, a result and all metadata, as JSON: a little less than Headway takes."""

_NAME = 200
"""Characters of a title, a name or a step."""

_COUNT = 2**31 - 1
"""The most items that Headway counts."""

_SUCCESS, _MISTAKE = 2, 4
"""First digits of a status."""

_FORBIDDEN = 403
_UNAUTHORIZED = frozenset({401, _FORBIDDEN})
_CONFLICT = 409
_TOO_LARGE = 413
_MALFORMED = frozenset({400, 413, 422})
_LATER = frozenset({408, 425, 429})
"""Statuses: a mistake in what was sent, but not one that would be one again."""

_LEVELS = frozenset({"phase", "info", "success", "warn", "error", "log"})
_ALIASES = {"warning": "warn", "critical": "error", "debug": "log"}
"""Names that Python's logging has for them."""

_HARMFUL = re.compile(r"\\u(?:0000|d[89a-f])", re.IGNORECASE)
"""In JSON: NUL, and halves of characters. Neither can be stored."""

_log = logging.getLogger("headway")
_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_UNSET: Any = object()


class Cancelled(Exception):
    """Somebody cancelled the work. Only `Tracker.check()` raises it."""


class Batch(NamedTuple):
    """What `create_batch` made. Where Headway was away all of it is empty, and a tracker made of it does nothing."""

    batch_id: str = ""
    jobs: tuple[str, ...] = ()
    """The jobs' ids, in the order of their names."""
    report_token: str = ""
    web_url: str = ""
    stream_url: str = ""

    def job(self, number: int) -> str:
        """The id of one, counted from 0; empty where there is none."""
        return self.jobs[number] if 0 <= number < len(self.jobs) else ""


def create_batch(
    title: str,
    names: Iterable[str],
    *,
    url: str | None = None,
    token: str | None = None,
    data: Iterable[Mapping[str, Any]] | None = None,
    metadata: Mapping[str, Any] | None = None,
    silence: float = _SILENCE,
    timeout: float = _CLOSE,
) -> Batch:
    """One batch with a job for each name, for trackers elsewhere that attach to them: a web application creates it,
    shows `web_url` and hands `report_token` and a job's id to each task. Unlike a tracker this waits for the answer,
    `timeout` seconds at most for each of its two requests. `data`: for each job what is to be kept among its
    parameters.

    Raises nothing: see Batch.
    """
    try:
        given = list(names)
        values = list(data) if data is not None else []
        headway = _Headway.at(url, token)
        if headway is None:
            return Batch()
        jobs = [
            _new_job(name, silence, values[number] if number < len(values) else None)
            for number, name in enumerate(given)
        ]
        made: list[Batch] = []
        arguments = (made, headway, title, jobs, metadata or {}, timeout)
        # a thread can be left: names of hosts are looked up without a time limit, and some answers never end
        thread = threading.Thread(target=_create, args=arguments, name="headway-batch", daemon=True)
        thread.start()
        thread.join(2 * timeout)
        if made:
            return made[0]
        _log.warning("no batch could be created in time, so nothing will be shown")
    except Exception:
        _log.exception("no batch could be created, so nothing will be shown")
    return Batch()


def _create(
    made: list[Batch],
    headway: _Headway,
    title: str,
    jobs: list[dict[str, Any]],
    metadata: Mapping[str, Any],
    timeout: float,
) -> None:
    """Appends it to `made`, an empty one if need be."""
    created = Batch()
    try:
        batch = headway.create(title, jobs, metadata, str(uuid.uuid4()), timeout)
        created = batch._replace(jobs=headway.jobs(batch, len(jobs), timeout))
    except (_Away, _Refused) as error:
        _log.warning("no batch could be created, so nothing will be shown: %s", error)
    except Exception:
        _log.exception("no batch could be created, so nothing will be shown")
    made.append(created)


def _new_job(name: Any, silence: float, data: Mapping[str, Any] | None) -> dict[str, Any]:
    params = {"silenceSeconds": min(86400.0, max(1.0, float(silence))), "data": _plain(dict(data or {}), _METADATA, {})}
    return {"name": _text(name, _NAME) or "work", "params": params}


def _harmless(method: _F) -> _F:
    """A mistake in how progress is told must not end the work whose progress it is."""

    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return method(*arguments, **named)
        except Exception:
            _log.exception("%s could not be done", method.__name__)

    return cast("_F", call)


class Tracker:
    """One job in Headway, for as long as this program works on it.

    `url`, `token`: HEADWAY_URL and HEADWAY_TOKEN unless given. Where either is empty nothing is told to anybody, and
    all else is the same. Without `job` a batch called `title` with this one job is created; with `job`, the id of a
    job of kind `external`, it is that one, and a report token of its batch is enough.

    `name`, `data`, `metadata` are of the new job and its batch. `silence`: seconds without a sign of life (there is
    one every 10 s by itself) after which Headway takes this program for dead. `retry`: whether another attempt may
    follow an exception, or a function that is given the exception and says so. `take_over`: the job may still be held
    by a predecessor that is known to be gone, such as an earlier delivery of the same task.

    Nothing begins before `with`, `start()` or the first thing said, and then it belongs to that process: one that is
    forked off later tells nothing through it. Every method may be called by any thread.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        title: str = "",
        job: str | uuid.UUID | None = None,
        name: str = "",
        data: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        silence: float = _SILENCE,
        take_over: bool = False,
        retry: bool | Callable[[BaseException], bool] = False,
    ) -> None:
        for what, value in (("url", url), ("token", token), ("title", title), ("name", name)):
            if not (isinstance(value, str) or (value is None and what in ("url", "token"))):
                raise TypeError(f"{what} is to be a text, not {type(value).__name__}")
        if not isinstance(job, (str, uuid.UUID, type(None))):
            raise TypeError(f"job is to be the id of one, not {type(job).__name__}")
        for what, values in (("data", data), ("metadata", metadata)):
            if not isinstance(values, (Mapping, type(None))):
                raise TypeError(f"{what} is to be a dictionary, not {type(values).__name__}")
        if isinstance(silence, bool) or not isinstance(silence, (int, float)):
            raise TypeError(f"silence is to be a number of seconds, not {type(silence).__name__}")
        if not 0 < silence < math.inf:
            raise ValueError("silence is to be some seconds")
        title = title or name or os.path.basename(sys.argv[0] if sys.argv else "") or "work"
        self._headway = _Headway.at(url, token)
        self._job = ""
        if job is not None:
            self._job = _job_id(job)
            if not self._job:
                self._headway = None
        self._new = (title, _new_job(name or title, silence, data), _plain(dict(metadata or {}), _METADATA, {}))
        """Of the creation, which may have to be repeated as it was."""
        self._silence = float(silence)
        self._take_over = bool(take_over)
        self._retry = retry
        self._key = str(uuid.uuid4())
        """Of the creation, so that one whose answer was lost is not repeated."""
        self._result: Any = None
        self._loop = threading.local()
        """Of each thread: the `track` that it is in, if any."""
        self._seen_cancelled = False
        self._batch = Batch()
        self._afresh()
        _trackers.add(self)

    def _afresh(self) -> None:
        """Nothing has been said."""
        self._pid = 0
        """Of the process that it began in."""
        self._warned = False
        self._buffer = _Buffer()
        self._counts = (0, 0, 0)
        """Items done, failed, and in all (0: unknown)."""
        self._cancel_requested = False
        self._paused = False
        self._sender: _Sender | None = None
        self._lock = threading.RLock()  # a signal's handler may interrupt whoever holds it

    # -- from beginning to end ----------------------------------------------------------------------------------------

    @_harmless
    def start(self, *, take_over: bool | None = None) -> None:
        """Begin, unless it has begun. With `take_over=True` a forked process makes its parent's tracker its own: what
        the parent has not sent yet is the parent's, and from then on Headway listens to this process alone.
        """
        if take_over is not None:
            self._take_over = bool(take_over)
        if self._pid and self._pid != os.getpid() and take_over:
            self._afresh()
        self._begun()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._leave(error)
        self.close()

    @_harmless
    def _leave(self, error: BaseException | None) -> None:
        if not self._begun():
            return
        if isinstance(error, SystemExit) and error.code in (None, 0):
            error = None
        if error is None and self._seen_cancelled:
            self._end("cancelled", {})
        elif error is None:
            self.complete()
        elif isinstance(error, Cancelled):
            self._end("cancelled", {})
        elif isinstance(error, (Exception, SystemExit)):
            self.fail(_describe(error), code=_code(error), retry=self._worth_retrying(error))
        else:
            self.fail(_describe(error), code="interrupted", retry=self._worth_retrying(error))

    def _worth_retrying(self, error: BaseException) -> bool:
        try:
            return bool(self._retry(error) if callable(self._retry) else self._retry)
        except Exception:
            _log.exception("whether to try again could not be decided: no")
            return False

    @property
    def result(self) -> Any:
        """What the work came to: any JSON value. It is sent with the end."""
        return self._result

    @result.setter
    def result(self, value: Any) -> None:
        self._result = value

    @_harmless
    def complete(self, result: Any = _UNSET) -> None:
        """The work is done. The end of a `with` says so by itself. Nothing that is said after an end counts."""
        value = self._result if result is _UNSET else result
        try:
            plain = _plain(value, _RESULT)
        except ValueError as why:
            self.warn(f"the result is left out: {why}")
            plain = None
        self._end("complete", {"result": plain})

    @_harmless
    def fail(self, message: Any = "", *, code: str = "failed", retry: bool = False) -> None:
        """The work has failed, and is to be tried again or not. `code` is for programs: lower_case."""
        code = re.sub(r"[^A-Za-z0-9_.-]", "_", _text(code, 100)) or "failed"
        words = _text(message, _TEXT // 4) or "it failed"
        self._end("fail", {"message": words, "code": code, "retry": bool(retry)})

    @_harmless
    def close(self, timeout: float | None = None) -> bool:
        """Waits until all is delivered, `timeout` seconds at most; says whether it is. The end of a `with` calls it.

        Without `timeout` it waits 5 s at most, and returns as soon as an attempt fails. In either case a thread goes
        on trying for ten minutes, or until the program ends, which waits 5 s for it once more. It says nothing of how
        the work went: a job that has not ended by then is taken for dead after its silence. Nothing can be said
        after it.
        """
        if self._headway is None or not self._pid:
            return True
        sender = self._sender
        if self._pid != os.getpid() or sender is None:
            return False
        return sender.close(timeout)

    # -- what is told -------------------------------------------------------------------------------------------------

    def track(self, items: Iterable[_T], total: int | None = None) -> Iterator[_T]:
        """The items, while how many are done is told. `total` where they do not know their number themselves.

        An exception in the loop's body ends the loop as always: put `with t.item():` around what may fail. A loop
        within another counts nothing.
        """
        if getattr(self._loop, "current", None) is not None:
            yield from items
            return
        if total is None:
            total = _length(items)
        self.progress(0, 0 if total is None else total, failed=0)
        loop = self._loop.current = _Loop()
        done = failed = 0
        total = self._counts[2]
        try:
            for item in items:
                loop.failed = False
                yield item
                if loop.failed:
                    failed += 1
                else:
                    done += 1
                self._counts = (done, failed, total)
        finally:
            if getattr(self._loop, "current", None) is loop:  # a generator may be closed by another thread
                self._loop.current = None

    @contextmanager
    def item(self, what: Any = "") -> Iterator[None]:
        """One item, whose failure is a warning and no more: the work goes on after it. In the body of a `track` loop it
        only says that the item failed; elsewhere it counts the item too.

        KeyboardInterrupt, SystemExit and `Cancelled` are not swallowed.
        """
        loop = getattr(self._loop, "current", None)
        failed = False
        try:
            yield
        except Cancelled:
            raise
        except Exception as error:  # that is what it is for
            failed = True
            self._item_failed(what, error)
        if loop is None:
            self._count(failed=failed)
        elif failed:
            loop.failed = True

    def each(self, items: Iterable[_T], function: Callable[[_T], Any], total: int | None = None) -> int:
        """Calls `function` with each item; one that raises is a warning, and the work goes on. How many did.

        Stops early once the work is cancelled.
        """
        failures = 0
        for item in self.track(items, total):
            if self.cancelled:
                break
            try:
                function(item)
            except Cancelled:
                raise
            except Exception as error:  # the same
                failures += 1
                loop = getattr(self._loop, "current", None)
                if loop is not None:
                    loop.failed = True
                self._item_failed(item, error)
        return failures

    @_harmless
    def _item_failed(self, what: Any, error: Exception) -> None:
        name = _text(what, _NAME)
        text = f"{name}: {_describe(error)}" if name else _describe(error)
        _log.warning("an item failed: %s", text)
        self.warn(text)

    @_harmless
    def _count(self, *, failed: bool) -> None:
        if not self._begun():
            return
        with self._lock:
            done, failures, total = self._counts
            self._counts = (done, failures + 1, total) if failed else (done + 1, failures, total)

    @_harmless
    def progress(
        self,
        done: int | None = None,
        total: int | None = None,
        *,
        failed: int | None = None,
        percent: float | None = None,
        message: Any = None,
    ) -> None:
        """So many of so many items are done (failed ones are not), or so many percent; what is left out stays."""
        said: dict[str, Any] = {}
        if percent is not None and not math.isnan(reached := float(percent)):
            said["percent"] = max(0.0, min(100.0, round(reached, 2)))
        if message is not None:
            said["message"] = _text(message, _TEXT // 4)
        if not self._begun():
            return
        with self._lock:
            old = self._counts
            self._counts = (_count(done, old[0]), _count(failed, old[1]), _count(total, old[2]))
        self._buffer.progress(said)

    @_harmless
    def step(self, name: Any, percent: float | None = None) -> None:
        """The work has come to a step of this name."""
        self._say("step", {"name": _text(name, _NAME) or "-", "at": _now()})
        if percent is not None:
            self.progress(percent=percent)

    @_harmless
    def log(self, text: Any, level: str = "log") -> None:
        """A line for the job's log. `level`: phase, info, success, warn, error or log."""
        level = _ALIASES.get(level, level)
        level = level if level in _LEVELS else "log"
        self._say("log", {"text": _text(text), "level": level, "at": _now()})

    @_harmless
    def warn(self, text: Any) -> None:
        """A line that says that something is not as it should be."""
        self._say("warning", {"text": _text(text), "at": _now()})

    @_harmless
    def metadata(self, **values: Any) -> None:
        """Facts about the job, by name, shown beside it while it runs. Later ones are added to earlier ones."""
        if self._begun():
            for key, value in values.items():
                self._note(_text(key, _NAME), value)

    def _note(self, key: str, value: Any) -> None:
        try:
            self._buffer.metadata(key, _plain(value, _METADATA))
        except ValueError as why:
            _log.warning("metadata %s is left out: %s", key, why)

    # -- what is heard ------------------------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled the work, as of the last answer. A block that has seen this and then ends without
        `complete()` ends as cancelled.
        """
        if self._cancel_requested:
            self._seen_cancelled = True
        return self._cancel_requested

    def check(self) -> None:
        """Raises Cancelled if the work is cancelled."""
        if self.cancelled:
            raise Cancelled("the work was cancelled in Headway")

    @property
    def paused(self) -> bool:
        """Whether the batch is paused, as of the last answer. Work that has begun need not stop for that."""
        return self._paused

    @property
    def job_id(self) -> str:
        """Empty until Headway has answered, where it is a new one."""
        return self._job

    @property
    def batch_id(self) -> str:
        """Empty until Headway has answered."""
        return self._batch.batch_id

    @property
    def web_url(self) -> str:
        """Where people watch it; it grants that to whoever has it. Empty until Headway has created the batch."""
        return self._batch.web_url

    @property
    def enabled(self) -> bool:
        """Whether anything is told to anybody."""
        return self._headway is not None

    # -- within -------------------------------------------------------------------------------------------------------

    def _say(self, kind: str, said: dict[str, Any]) -> None:
        if self._begun():
            self._buffer.say(kind, said)

    def _end(self, kind: str, said: dict[str, Any]) -> None:
        if self._begun() and self._buffer.end(kind, said) and self._sender is not None:
            self._sender.wake.set()

    def _begun(self) -> bool:
        """Begin if need be. Whether there is somebody to tell, and this process is to do it."""
        pid = self._pid
        if pid == os.getpid():
            return True
        if self._headway is None:
            return False
        if pid:
            if not self._warned:
                self._warned = True
                _log.warning("a tracker that another process began tells nothing in this one")
            return False
        with self._lock:
            if not self._pid:
                self._buffer.say("start", {"takeOver": self._take_over})
                self._sender = _Sender(self, self._headway, self._buffer)
                self._pid = os.getpid()
                self._sender.start()
        return True


class _Loop:
    """A `track` that is under way, and whether its present item failed."""

    __slots__ = ("failed",)

    def __init__(self) -> None:
        self.failed = False


class _Buffer:
    """What is to be told, in order. The last report under way are `flying`: they are repeated, in the same words and
    under the same numbers, until an answer says that they have arrived.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._lines: deque[tuple[str, dict[str, Any], int]] = deque()
        self._characters = 0
        self._dropped = 0
        self._progress: dict[str, Any] = {}
        self._metadata: dict[str, Any] = {}
        self._changed = False
        """Whether there is metadata that was not told yet."""
        self._final: dict[str, Any] | None = None
        self.ended = False
        self._told = (0, 0, 0)
        """The counts that were told last."""
        self._arrived = 0
        """The number of the last report that arrived."""
        self.flying: list[dict[str, Any]] = []

    def say(self, kind: str, said: dict[str, Any]) -> None:
        size = len(said.get("text", "")) + len(said.get("name", ""))
        with self._lock:
            if self.ended:
                return
            self._lines.append((kind, said, size))
            self._characters += size
            while len(self._lines) > _LINES or self._characters > _CHARACTERS:
                # the first one says who we are
                at = 1 if self._lines[0][0] == "start" else 0
                self._characters -= self._lines[at][2]
                del self._lines[at]
                self._dropped += 1

    def progress(self, said: dict[str, Any]) -> None:
        with self._lock:
            if not self.ended:
                self._progress.update(said)

    def metadata(self, key: str, value: Any) -> None:
        with self._lock:
            if self.ended:
                return
            metadata = {**self._metadata, key: value}
            if len(_encode(metadata)) > _METADATA:
                raise ValueError(f"there would be more than {_METADATA} bytes of it")
            self._metadata = metadata
            self._changed = True

    def end(self, kind: str, said: dict[str, Any]) -> bool:
        """Whether it is the first end."""
        with self._lock:
            if self.ended:
                return False
            self.ended = True
            self._final = {"type": kind, **said}
            return True

    def fly(self, counts: tuple[int, int, int], *, beat: bool) -> list[dict[str, Any]]:
        """What is to be sent now, without numbers. `beat`: something in any case."""
        with self._lock:
            if self.flying:
                return self.flying
            flying = self.flying
            size = 0
            while self._lines and len(flying) < _MANY - 4 and size < _LARGE // 8:
                if self._dropped and self._lines[0][0] != "start":
                    text = f"{self._dropped:,} lines are missing here: they came faster than they could be sent"
                    flying.append({"type": "warning", "text": text})
                    self._dropped = 0
                kind, said, characters = self._lines.popleft()
                self._characters -= characters
                size += characters + 50
                flying.append({"type": kind, **said})
            if self._lines:
                return flying
            if self._changed:
                flying.append({"type": "metadata", "metadata": self._metadata})
                self._changed = False
            if self._progress or counts != self._told or (beat and not flying and self._final is None):
                flying.append(self._progress_report(counts))
            if self._final is not None:
                flying.append(self._final)
                self._final = None
            return flying

    def _progress_report(self, counts: tuple[int, int, int]) -> dict[str, Any]:
        report = {"type": "progress", **self._progress}
        if counts != self._told:
            done, failed, total = counts
            report.update(done=done, failed=failed, total=total)
        self._progress, self._told = {}, counts
        return report

    def begin_again(self) -> None:
        """In a new run, which knows nothing of what the last one told but the job's lines."""
        with self._lock:
            self._arrived = 0
            first: list[dict[str, Any]] = [{"type": "start"}]
            if self._metadata:
                first.append({"type": "metadata", "metadata": self._metadata})
            if self._told != (0, 0, 0):
                first.append({"type": "progress", **dict(zip(("done", "failed", "total"), self._told))})
            self.flying[0:0] = first

    def numbered(self, many: int) -> list[dict[str, Any]]:
        """The first so many of those that fly."""
        first = self._arrived + 1
        return [{"sequence": first + place, **report} for place, report in enumerate(self.flying[:many])]

    def arrived(self, many: int) -> None:
        """The first so many of those that fly."""
        with self._lock:
            self._arrived += many
            del self.flying[:many]

    def waiting(self, counts: tuple[int, int, int]) -> int:
        """How many reports have not arrived."""
        with self._lock:
            more = bool(self._progress or counts != self._told) + self._changed + (self._final is not None)
            return len(self.flying) + len(self._lines) + more


class _Sender:
    """The thread of one tracker that has begun."""

    def __init__(self, tracker: Tracker, headway: _Headway, buffer: _Buffer) -> None:
        self._tracker = tracker
        self._headway = headway
        self._buffer = buffer
        self._run_id = str(uuid.uuid4())
        self._limit = _MANY
        """Reports that go together: fewer while it is looked for one that is refused."""
        self._heard = 0.0
        self._heartbeat = min(_HEARTBEAT, tracker._silence / 3)
        self._greeted = False
        self._until = math.inf
        """When to give up."""
        self.wake = threading.Event()
        self._closing = False
        self._tried = threading.Event()
        """An attempt has failed since the close, or the thread has ended."""
        self.done = threading.Event()
        self._delivered = False
        self._thread = threading.Thread(target=self._work, name="headway-tracker", daemon=True)

    def start(self) -> None:
        _open.add(self)
        try:
            self._thread.start()
        except RuntimeError as error:  # there can be no more threads: the program ends, or has too many
            _log.warning("nothing will be shown in Headway: %s", error)
            self._finish()

    def close(self, timeout: float | None) -> bool:
        self._until = min(self._until, time.monotonic() + _LINGER)
        self._tried.clear()
        self._closing = True
        if self.done.is_set():
            self._tried.set()
        self.wake.set()
        if timeout is None:
            self._tried.wait(_CLOSE)
        else:
            self.done.wait(max(0.0, timeout))
        if not self.done.is_set() and sum(other._closing for other in list(_open)) > _LINGERING:
            self._until = 0.0
            self.wake.set()
        return self._delivered

    def finish_until(self, until: float) -> None:
        """As the program ends."""
        self._closing = True
        self.wake.set()
        self.done.wait(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        try:
            self._send_all()
        except _Refused as refused:
            _log.warning("Headway takes no more of this work's progress: %s", refused)
        except Exception:
            _log.exception("the tracker failed: nothing more is told")
        finally:
            self._finish()

    def _finish(self) -> None:
        missing = self._buffer.waiting(self._tracker._counts)
        self._delivered = not missing
        if missing:
            _log.warning("%d reports were not delivered to Headway", missing)
        self._buffer.end("cancelled", {})  # what is said from now on is not kept
        _open.discard(self)
        self.done.set()
        self._tried.set()

    def _send_all(self) -> None:
        failures = 0
        while time.monotonic() < self._until:
            closing = self._closing
            try:
                self._round()
            except _Away as away:
                failures += 1
                if failures == 1:
                    _log.info("Headway is away, trying again: %s", away)
                pause = max(_backoff(failures), away.retry_after)
                if closing:
                    self._tried.set()
            else:
                if failures:
                    _log.info("Headway is back")
                failures = 0
                waiting = self._buffer.waiting(self._tracker._counts)
                if not waiting and (closing or self._buffer.ended):
                    return
                pause = 0.0 if closing or self._buffer.flying or waiting >= _MANY else _INTERVAL
            self.wake.wait(min(pause, max(0.0, self._until - time.monotonic())))
            self.wake.clear()

    def _round(self) -> None:
        """One request, if there is something to say. Raises _Away and _Refused."""
        self._greet()
        beat = time.monotonic() - self._heard >= self._heartbeat
        if not self._buffer.fly(self._tracker._counts, beat=beat):
            return
        reports = self._sized(self._buffer.numbered(self._limit))
        body = {"run": self._run_id, "reports": reports}
        try:
            answer = self._headway.ask(f"/api/jobs/{self._tracker._job}/report", body)
        except _Refused as refused:
            if refused.status in _MALFORMED:
                self._narrow(reports, refused)
            elif refused.status != _CONFLICT or not self._may_begin_again():
                raise
            return
        if not isinstance(answer.get("sequence"), int):
            raise _Away("its answer is none of Headway's")
        self._heard = time.monotonic()
        self._tracker._cancel_requested = answer.get("cancelRequested") is True
        self._tracker._paused = answer.get("paused") is True
        if isinstance(answer.get("batchId"), str) and not self._tracker._batch.batch_id:
            self._tracker._batch = Batch(batch_id=answer["batchId"])
        self._buffer.arrived(len(reports))
        if not self._buffer.flying:
            self._limit = _MANY

    def _may_begin_again(self) -> bool:
        """Why our reports are not taken. If Headway took us for dead, because it did not hear of us for too long, we go
        on in another attempt.
        """
        job = self._headway.ask(f"/api/jobs/{self._tracker._job}")
        self._tracker._cancel_requested = job.get("cancelRequested") is True or job.get("status") == "CANCELLED"
        if job.get("status") != "QUEUED" or self._buffer.numbered(1)[0]["sequence"] == 1:
            return False
        self._run_id = str(uuid.uuid4())
        self._buffer.begin_again()
        return True

    def _sized(self, reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of the first that a request has room for; at least one."""
        size = 0
        for number, report in enumerate(reports):
            size += len(_encode(report)) + 1
            if size > _LARGE - 1000 and number:
                return reports[:number]
        return reports

    def _narrow(self, reports: list[dict[str, Any]], refused: _Refused) -> None:
        """One of these is not taken: with fewer in each request it shows which, and the others arrive."""
        if len(reports) > 1:
            self._limit = max(1, len(reports) // 2)
            return
        report = self._buffer.flying[0]
        least: dict[str, dict[str, Any]] = {"complete": {}, "fail": {"message": "it failed"}}
        plain = {"type": report["type"], **least.get(report["type"], {})}
        if report["type"] == "start":
            raise refused
        if report["type"] in least and report != plain:
            _log.warning("the end is told without its details, which Headway refused: %s", refused)
            self._buffer.flying[0] = plain
            return
        _log.warning("a report (%s) is left out, which Headway refused: %s", report["type"], refused)
        del self._buffer.flying[0]

    def _greet(self) -> None:
        """What has to be known before the first report."""
        tracker = self._tracker
        if not tracker._job:
            if not tracker._batch.batch_id:
                title, job, metadata = tracker._new
                tracker._batch = self._headway.create(title, [job], metadata, tracker._key)
                self._headway.prefer(tracker._batch.report_token)
            (tracker._job,) = self._headway.jobs(tracker._batch, 1)
            self._greeted = True
        elif not self._greeted:
            silence = self._silence_of(tracker._job)
            if isinstance(silence, (int, float)) and silence > 0:
                self._heartbeat = min(_HEARTBEAT, silence / 3)
            self._greeted = True

    def _silence_of(self, job: str) -> Any:
        """Of one that somebody else created; None where that is not for this token to see."""
        try:
            params = self._headway.ask(f"/api/jobs/{job}").get("params")
        except _Refused as refused:
            if refused.status != _FORBIDDEN:
                raise
            return None
        return params.get("silenceSeconds") if isinstance(params, dict) else None


class _Away(Exception):
    """There was no answer, or none of Headway's own. It may be different later."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class _Refused(Exception):
    """Headway itself said no, and would again."""

    def __init__(self, status: int, said: Mapping[str, Any]) -> None:
        errors = said.get("errors")
        wrong = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
        fields = [f"{error.get('path')}: {error.get('message')}" for error in wrong]
        super().__init__(_text(f"{status} {said.get('detail') or said.get('title')} {'; '.join(fields[:5])}", 1000))
        self.status = status


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A token is for one address: wherever else we are sent it does not go."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Headway:
    """Where it is, and what we may do there. Proxies are those of the environment, certificates those of the system."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._tokens = [token]
        """The first one is used; when it is refused, the next."""
        self._opener = urllib.request.build_opener(_NoRedirects())
        self._timeout = _TIMEOUT

    @classmethod
    def at(cls, url: str | None, token: str | None) -> _Headway | None:
        """None where either is empty, or not what it should be."""
        url = (os.environ.get("HEADWAY_URL", "") if url is None else url).strip().rstrip("/")
        token = (os.environ.get("HEADWAY_TOKEN", "") if token is None else token).strip()
        if not url or not token:
            return None
        if not _is_address(url):
            _log.warning("the URL of Headway is no http(s) address, so nothing will be shown")
            return None
        if not _is_token(token):
            _log.warning("the token for Headway cannot be one, so nothing will be shown")
            return None
        return cls(url, token)

    def prefer(self, token: str) -> None:
        """It lasts longer than the one that it was got with."""
        if _is_token(token):
            self._tokens.insert(0, token)

    def create(
        self,
        title: Any,
        jobs: list[dict[str, Any]],
        metadata: Mapping[str, Any],
        key: str,
        timeout: float | None = None,
    ) -> Batch:
        body: dict[str, Any] = {"kind": "external", "title": _text(title, _NAME), "jobs": jobs}
        body["metadata"] = _plain(dict(metadata), _METADATA, {})
        batch = self.ask("/api/batches", body, timeout=timeout, headers={"Idempotency-Key": key})
        if not isinstance(batch.get("batchId"), str):
            raise _Away("its answer is none of Headway's")
        token, web, stream = (str(batch.get(name) or "") for name in ("reportToken", "webUrl", "streamUrl"))
        join = functools.partial(urllib.parse.urljoin, self._url + "/")
        return Batch(
            batch_id=batch["batchId"],
            report_token=token,
            web_url=join(web) if web else "",
            stream_url=join(stream) if stream else "",
        )

    def jobs(self, batch: Batch, many: int, timeout: float | None = None) -> tuple[str, ...]:
        """The ids of the so many jobs that it has."""
        ids: list[str] = []
        cursor = ""
        while len(ids) < many:
            page = self.ask(f"/api/batches/{_path(batch.batch_id)}/jobs?limit=1000{cursor}", timeout=timeout)
            items = page.get("items")
            items = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
            found = [_job_id(item.get("id")) for item in items]
            if not found or not all(found):
                raise _Away("its answer is none of Headway's")
            ids += found
            cursor = f"&cursor={_path(str(page.get('nextCursor')))}"
        return tuple(ids)

    def ask(
        self,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """What it says: GET, or POST where there is a body. Raises _Away and _Refused, and nothing else."""
        try:
            return self._ask(path, body, timeout, headers or {})
        except _Refused as refused:
            if refused.status not in _UNAUTHORIZED or len(self._tokens) == 1:
                raise
        del self._tokens[0]
        return self._ask(path, body, timeout, headers or {})

    def _ask(
        self, path: str, body: dict[str, Any] | None, timeout: float | None, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        timeout = self._timeout if timeout is None else timeout
        sent = {"Authorization": f"Bearer {self._tokens[0]}", "Accept": "application/json", **headers}
        if body is not None:
            sent["Content-Type"] = "application/json"
        data = None if body is None else _encode(body)
        request = urllib.request.Request(self._url + path, data=data, headers=sent)  # see _is_address
        try:
            try:
                response = self._opener.open(request, timeout=timeout)
            except urllib.error.HTTPError as error:  # that is a response, too
                response = error
            with response:
                status, again = response.status or 0, response.headers.get("Retry-After") or ""
                said = _decode(_read(response, time.monotonic() + timeout))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _Away(self._without_tokens(error)) from None
        if status // 100 == _SUCCESS and said:
            return said
        ours = str(said.get("type", "")).startswith("/problems/")
        if status == _TOO_LARGE or (ours and status // 100 == _MISTAKE and status not in _LATER):
            raise _Refused(status, said)
        raise _Away(f"it answered {status}", min(60.0, float(again)) if again.isdecimal() else 0.0)

    def _without_tokens(self, error: BaseException) -> str:
        text = _text(f"{type(error).__name__}: {error}", 500)
        for token in self._tokens:
            text = text.replace(token, "(a token)")
        return text


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port  # it is looked at only now
    except ValueError:
        return False
    whole = not (parts.query or parts.fragment or "@" in parts.netloc or port == 0)
    printable = all("!" <= character <= "~" for character in url)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and whole and printable


def _is_token(token: str) -> bool:
    return bool(token) and all("!" <= character <= "~" for character in token)


def _job_id(value: Any) -> str:
    """In its usual form; empty where it is none."""
    if not value:
        return ""
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        _log.warning("that is no id of a job, so nothing will be shown")
        return ""


def _path(part: str) -> str:
    return urllib.parse.quote(part, safe="")


def _read(response: Any, until: float) -> bytes:
    """Its body. Raises OSError if that is too long, or takes too long."""
    body = b""
    while chunk := response.read1(65536):
        body += chunk
        if len(body) > _LARGE * 10 or time.monotonic() > until:
            raise OSError("the answer does not end")
    return body


def _decode(body: bytes) -> dict[str, Any]:
    """Empty where it is no JSON object."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_text).encode()


def _plain(value: Any, most: int, otherwise: Any = _UNSET) -> Any:
    """As JSON knows it: what it does not know becomes a text. `otherwise` instead of more than `most` bytes or of what
    has no form at all, or ValueError.
    """
    try:
        encoded = _as_json(value)
    except Exception as error:
        encoded, why = "", _describe(error)
    else:
        why = f"it has more than {most:,} bytes"
    if encoded and len(encoded) <= most:
        return json.loads(encoded)
    if otherwise is _UNSET:
        raise ValueError(why)
    return otherwise


def _as_json(value: Any) -> str:
    try:
        encoded = json.dumps(value, allow_nan=False, default=_text)
    except (TypeError, ValueError, RecursionError):
        encoded = json.dumps(_simple(value, 50))
    return json.dumps(_simple(json.loads(encoded), 50)) if _HARMFUL.search(encoded) else encoded


def _simple(value: Any, depth: int) -> Any:
    """The long way: every key a text, no number that is none, no character that cannot be stored."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping) and depth:
        return {_text(key, _NAME): _simple(part, depth - 1) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) and depth:
        return [_simple(part, depth - 1) for part in value]
    return _text(value, _RESULT)


def _text(value: Any, most: int = _TEXT) -> str:
    """Whatever it is, as a text that can be stored, cut where it has more than `most` bytes."""
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:  # somebody's __str__
        text = f"({type(value).__name__})"
    data = text[: most + 1].replace("\0", "\ufffd").encode("utf-8", "replace")
    if len(data) > most:
        data = data[: most - 3] + "…".encode()
    return data.decode("utf-8", "ignore")


def _describe(error: BaseException) -> str:
    """What a person sees of an exception."""
    text = _text(error, _TEXT // 4)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _code(error: BaseException) -> str:
    """The exception's name as a code: ValueError is value_error."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(error).__name__).lower()
    return re.sub(r"[^a-z0-9_]", "", name)[:64].strip("_") or "failed"


def _length(items: Iterable[Any]) -> int | None:
    """None where it is not known."""
    try:
        length = operator.length_hint(items, -1)
    except Exception:  # somebody's __len__
        return None
    return length if length >= 0 else None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def _count(new: Any, old: int) -> int:
    return old if new is None else max(0, min(_COUNT, int(new)))


def _backoff(failures: int) -> float:
    """With jitter, so that a thousand programs do not come back at once."""
    first, longest = _BACKOFF
    return min(longest, first * 2.0 ** min(failures - 1, 16)) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret


_open: set[_Sender] = set()
"""Those of this process whose thread runs."""

_trackers: weakref.WeakSet[Tracker] = weakref.WeakSet()


def _forget_in_child() -> None:
    """Threads stay with the parent, and locks that they hold in this moment are held for ever."""
    _open.clear()
    for tracker in list(_trackers):
        if not tracker._pid:
            tracker._afresh()


def _at_exit() -> None:
    until = time.monotonic() + _CLOSE
    for sender in list(_open):
        sender.finish_until(until)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_at_exit)
