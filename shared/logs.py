"""Logging, set up once at the start of a process: readable in development, JSON lines in production.

What came from outside can be in an event's values, and must neither forge a line nor tell what is nobody's business:
see docs/security.md.
"""

import logging
import re
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.trace import CURRENT

LONGEST = 8192
"""Characters of one value."""

_CUT = " … (cut)"

# What PostgreSQL adds to an error repeats what it was given; SQLAlchemy's parameters are hidden, and here once more.
_DATA = re.compile(
    r"\n(?:DETAIL|CONTEXT|QUERY|HINT):.*?(?=\n\[SQL|\Z)|\n\[parameters: .*?\](?=\n\(Background|\Z)", re.DOTALL
)

log = structlog.get_logger(__name__)


def configure_logs(
    form: Literal["text", "json"], service: str, *, queue: str = "", mask: Callable[[str], str] = str
) -> None:
    """Everything goes to standard error: our own events, those of libraries (warnings and above), and what would have
    ended up there anyway, such as the traceback of a thread that dies. `mask` goes over every text. `queue`: what tells
    one process of a service from the other.
    """

    def named(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        if queue:
            event.setdefault("queue", queue)
        if (trace := CURRENT.get()) is not None:
            event["trace_id"] = trace.id
        return event

    def cleaned(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {name: _clean(value, mask) for name, value in event.items()}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        named,
    ]
    # without local variables, which structlog would show: they hold tokens and tickets
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[Processor] = (
        [structlog.processors.JSONRenderer()]
        if form == "json"
        else [_on_lines, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = _Stream(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(frames),
                cleaned,
                *last,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("shared", "services", "infra"):
        logging.getLogger(ours).setLevel(logging.INFO)
    _catch_the_rest()


class _Stream(logging.StreamHandler[TextIO]):
    """Is silent where nothing can be written, on a full disk say: to complain of it would be to write."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # its name in the standard library
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _catch_the_rest() -> None:
    """What Python itself would print becomes an event: one line, in our form, masked."""
    logging.captureWarnings(True)

    def died(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("the process dies of an error", exc_info=(kind, error, trace))

    def thread_died(dead: threading.ExceptHookArgs) -> None:
        error = dead.exc_value or dead.exc_type()
        name = None if dead.thread is None else dead.thread.name
        log.error("a thread died of an error", thread=name, exc_info=(dead.exc_type, error, dead.exc_traceback))

    def unraisable(lost: Any) -> None:
        error = lost.exc_value or lost.exc_type()
        log.error("an error that nobody can catch", exc_info=(lost.exc_type, error, lost.exc_traceback))

    sys.excepthook, threading.excepthook, sys.unraisablehook = died, thread_died, unraisable


def _clean(value: Any, mask: Callable[[str], str]) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {name: _clean(inner, mask) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner, mask) for inner in value]
    text = mask(_DATA.sub("", value if isinstance(value, str) else repr(value)))
    return text if len(text) <= LONGEST else text[: LONGEST - len(_CUT)] + _CUT


def _on_lines(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For people: no character of a value moves the cursor or begins a line, and tracebacks are indented."""
    exception = event.pop("exception", None)
    shown = {name: _printable(value) if isinstance(value, str) else value for name, value in event.items()}
    if isinstance(exception, list):
        shown["exception"] = "\n".join(_traceback(exception, "  "))
    return shown


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _traceback(stacks: list[dict[str, Any]], indent: str) -> list[str]:
    """The last error first, each followed by where it was raised, the innermost call last."""
    lines = []
    for number, stack in enumerate(stacks):
        why = "" if number == 0 else "caused by " if stack["is_cause"] else "while handling "
        lines.append(f"{indent}{why}{stack['exc_type']}: {_printable(stack['exc_value'])}")
        lines += [f"{indent}  note: {_printable(note)}" for note in stack["exc_notes"]]
        lines += [f"{indent}  {frame['filename']}:{frame['lineno']} in {frame['name']}" for frame in stack["frames"]]
        for group in stack.get("exceptions", ()):
            lines += _traceback(group, indent + "    ")
    return lines
