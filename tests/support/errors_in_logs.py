"""What counts as an error line, by who wrote it. What is expected after a kill is told as a warning or not at all."""

import json
import re
from collections.abc import Iterable, Mapping

_LEVELS = {"error", "critical"}
_NGINX = re.compile(r"\[(?:error|crit|alert|emerg)\]")
# whoever looks while it starts or stops, such as its health check, is told so in such a line
_POSTGRES = re.compile(r"\b(?:ERROR|FATAL|PANIC):(?!\s+the database system is (?:starting up|shutting down))")
# a level stands in every line: . debug, - verbose, * notice, # warning
_REDIS = re.compile(r"BUG REPORT|Fatal|FATAL|[Cc]rash|Error|error")
_ABROAD = {"gateway": _NGINX, "postgres": _POSTGRES, "redis": _REDIS}

_SERVER_ERROR = 500
_NOBODY_THERE = 503
"""The gateway, of requests for which no process is there at the moment: clients are told to come again."""


def errors(said: Mapping[str, Iterable[str]]) -> list[str]:
    """The error lines, each behind the name of the service that wrote it."""
    return [f"{service}: {line}" for service, lines in said.items() for line in lines if is_error(service, line)]


def is_error(service: str, line: str) -> bool:
    """Of our services every line is an object: any other, such as a traceback, is an error too."""
    if service == "migrate":
        return not line.startswith(("migrated: ", "the database is up to date"))
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    if service in _ABROAD:
        if isinstance(told, dict):  # of the gateway's access log
            status = int(told["status"])
            return status >= _SERVER_ERROR and status != _NOBODY_THERE
        return _ABROAD[service].search(line) is not None
    return not isinstance(told, dict) or told.get("level") in _LEVELS or "exception" in told
