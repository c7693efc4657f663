"""What tests/deploy takes for an error line."""

import pytest

from tests.support.errors_in_logs import is_error

LINES = [
    ("api", '{"event": "request", "status": 503, "level": "info"}', False),
    ("stream", '{"event": "redis is away", "level": "warning"}', False),
    ("worker", '{"event": "a commit failed", "level": "error"}', True),
    ("worker", "Traceback (most recent call last):", True),
    ("api", "", True),
    ("migrate", "migrated: 0001 The core", False),
    ("migrate", "the database is up to date: nothing to do", False),
    ("migrate", "DATABASE_URL cannot be used", True),
    ("gateway", '{"status":"200","path":"/"}', False),
    ("gateway", '{"status":"503","path":"/api/batches"}', False),
    ("gateway", '{"status":"500","path":"/api/batches"}', True),
    ("gateway", '{"status":"502","path":"/api/batches"}', True),
    ("gateway", "2026/11/21 19:00:00 [warn] 1#1: something", False),
    ("gateway", "2026/11/21 19:00:00 [alert] 1#1: setrlimit failed", True),
    ("gateway", "nginx: [emerg] host not found", True),
    ("postgres", "2026-11-21 19:00:00 UTC [1] LOG:  could not receive data from client: reset", False),
    ("postgres", "2026-11-21 19:00:00 UTC [1] ERROR:  deadlock detected", True),
    ("postgres", "2026-11-21 19:00:00 UTC [1] FATAL:  too many clients", True),
    ("postgres", "2026-11-21 19:00:00 UTC [1] FATAL:  the database system is starting up", False),
    ("postgres", "2026-11-21 19:00:00 UTC [1] FATAL:  the database system is shutting down", False),
    ("redis", "1:M 21 Nov 2026 19:00:00.000 # WARNING Memory overcommit must be enabled!", False),
    ("redis", "1:M 21 Nov 2026 19:00:00.000 # === REDIS BUG REPORT START", True),
    ("redis", "1:M 21 Nov 2026 19:00:00.000 # Error accepting a client connection", True),
]


@pytest.mark.parametrize(("service", "line", "error"), LINES)
def test_tells_errors_from_others(service: str, line: str, error: bool) -> None:
    assert is_error(service, line) is error
