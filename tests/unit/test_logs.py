"""What a process writes on standard error: one event a line, whatever is in it."""

import json
import subprocess
import sys

import pytest

from shared.settings import SettingsError, load_settings

PROGRAM = r"""
import logging, sys, threading, warnings
import structlog
from services.worker.prints import catch_prints
from shared.logs import configure_logs

configure_logs(sys.argv[1], "test", mask=lambda text: text.replace("hunter2", "***"))
catch_prints()
log = structlog.get_logger("services.test")
other = logging.getLogger("some.library")

def fail(password):
    try:
        raise KeyError(f"{password}\nFORGED\x1b[31m")
    except KeyError as error:
        said = "no\nDETAIL:  row\nCONTEXT:  COPY row\n[SQL: select]\n[parameters: row]\n(Background)"
        raise ValueError(said) from error

log.info("one\nFORGED \x1b[1m\u2028", password="hunter2", inner={"a": ["hunter2", 1, None]}, long="x" * 100_000)
other.warning("two %s", "hunter2\nFORGED")
other.info("too low to be told")
for tell in (log.exception, other.exception):
    try:
        fail("hunter2")
    except ValueError:
        tell("three")
print("four", "hunter2\nFIVE")
print("six", end="")
print(" and more", file=sys.stdout)
sys.stderr.write("seven\n")
warnings.warn("eight hunter2")
thread = threading.Thread(target=fail, args=("hunter2",), name="nine")
thread.start()
thread.join()
threading.Thread(target=log.info, args=("ten",)).start()
log.error("eleven", exc_info=ExceptionGroup("several", [ValueError("hunter2"), OSError("b")]))
class Unraisable:
    def __del__(self):
        raise RuntimeError("twelve hunter2")
Unraisable()
raise SystemError("the end of hunter2")
"""


def lines(form: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "hunter2" not in done.stderr
    for word in ("row", "too low", "Traceback", "\x1b", "\u2028"):
        assert word not in done.stderr, word
    return done.stderr.splitlines()


def test_in_production_every_line_is_an_event() -> None:
    events = [json.loads(line) for line in lines("json")]
    assert [event["event"].split()[0].rstrip("0123456789:") for event in events] == [
        *("one", "two", "three", "three", "printed", "printed", "printed", "printed", "<string>"),
        *("a", "ten", "eleven", "an", "the"),
    ]
    for event in events:
        assert event.keys() >= {"timestamp", "level", "service", "event"}
        assert event["service"] == "test"
    first = events[0]
    assert first["inner"] == {"a": ["***", 1, None]}
    assert len(first["long"]) == 8192
    assert [event["text"] for event in events if event["event"] == "printed"] == [
        "four ***",
        "FIVE",
        "six and more",
        "seven",
    ]
    for told in (events[2], events[3]):
        value, key = told["exception"]
        assert (value["exc_type"], value["exc_value"]) == ("ValueError", "no\n[SQL: select]\n(Background)")
        assert key["exc_type"] == "KeyError"
        assert value["frames"][-1].keys() == {"filename", "lineno", "name"}
    assert events[-1]["level"] == "critical"


def test_in_development_nobody_but_us_begins_a_line() -> None:
    said = lines("text")
    assert not any(line.startswith(("FORGED", "FIVE")) for line in said)
    assert all(line.startswith(("20", "  ")) for line in said), said
    assert any(line.lstrip() == "caused by KeyError: '***\\nFORGED\\x1b[31m'" for line in said)
    assert any("one\\nFORGED \\x1b[1m\\u2028" in line for line in said)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://user:hunter2/3@host:5432/x"),
        ("DATABASE_URL", "postgresql://user:a@host:hunter2/x"),
        ("DATABASE_URL", "hunter2"),
        ("REDIS_URL", "redis://:hunter2/3@host:6379"),
        ("REDIS_URL", "redis://:a@host:hunter2"),
        ("REDIS_URL", "http://:hunter2@host"),
        ("HEADWAY_SECRET", "hunter2"),
        ("HEADWAY_TICKET_KEY", "hunter2"),
        ("HEADWAY_JWKS_URL", "https://user:hunter2@host/keys"),
    ],
)
def test_a_setting_that_is_refused_is_not_repeated(name: str, value: str) -> None:
    good = {"DATABASE_URL": "postgresql:///x", "REDIS_URL": "redis:///", "HEADWAY_TICKET_KEY": "k" * 32}
    good["HEADWAY_JWKS_URL" if name == "HEADWAY_JWKS_URL" else "HEADWAY_SECRET"] = "s" * 32
    with pytest.raises(SettingsError, match=f"^{name}: ") as caught:
        load_settings(good | {name: value})
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
