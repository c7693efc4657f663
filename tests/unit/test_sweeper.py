"""When the sweeper believes that a lease is over: only while the server's clock went on in steady steps."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.worker.sweeper import Sweeper
from shared.settings import Settings

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = -1000.0
LEASE = 15.0


def seconds(number: float) -> datetime:
    return BEGIN + timedelta(seconds=number)


@pytest.fixture
def sweeper() -> Sweeper:
    unused: Any = None
    key = "a key for tests, of 32 bytes or more"
    settings = Settings(database_url="", redis_url="", secret=key, ticket_key=key, uploads=Path(), lease=LEASE)
    return Sweeper(unused, unused, unused, settings, {})


@pytest.mark.parametrize(
    ("what", "looks", "up_since", "expires"),
    [
        ("not long enough", [*range(16)], LONG_AGO, False),
        ("long enough", [*range(17)], LONG_AGO, True),
        ("a slow machine", [*range(0, 21, 4)], LONG_AGO, True),
        ("the server was restarted", [*range(31)], 20, False),
        ("the server was restarted long enough ago", [*range(37)], 20, True),
        ("everything stood still", [*range(30), 60], LONG_AGO, False),
        ("everything stood still, and had a lease's time since", [*range(30), *range(60, 77)], LONG_AGO, True),
        ("the clock was set back", [*range(3600, 3630), *range(10)], LONG_AGO, False),
        ("the clock was set back long enough ago", [*range(3600, 3630), *range(17)], LONG_AGO, True),
        ("the clock was set back to before the start", [*range(3600, 3630), *range(17)], 3000, False),
        ("nobody looked for a while", [0, *range(100, 110)], LONG_AGO, False),
    ],
)
def test_leases_are_over_after_steady_time_only(
    sweeper: Sweeper, what: str, looks: list[float], up_since: float, *, expires: bool
) -> None:
    told = [sweeper._may_expire(seconds(look), seconds(up_since)) for look in looks]
    assert told[-1] is expires, what
