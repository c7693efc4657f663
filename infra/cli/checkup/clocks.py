"""The clocks of the parts, each against ours."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx

from infra.cli.api import Api, Refused
from infra.cli.checkup.advice import Finding
from infra.cli.errors import CliError
from infra.cli.smoketest.checks import Checks

CLOCKS = 5.0
"""Seconds that two clocks may differ: tokens end at the second, and people read times."""

_REPORT_TOKEN = 7 * 86400.0
"""Seconds that a report token is good for, by api's clock, whatever the token that got it."""


def check_database(checks: Checks, batch: dict[str, Any], before: float, after: float) -> None:
    """By a batch that was made between these two moments."""
    with checks.check("the database's clock and ours agree"):
        made = seconds(batch["createdAt"])
        tell_clock(apart(made, made, before, after), "the database", f"createdAt {batch['createdAt']}")


def check_api(checks: Checks, api: Api) -> None:
    """A gateway replaces `Date`, a batch has its times from the database, and a ticket ends with the token that got it:
    only a report token is told by api's own clock, and by nothing else.
    """
    what = "api's clock and ours agree"
    try:
        batch = api.create_batch(
            {"kind": "external", "title": "headway doctor, clock", "jobs": [{"name": "doctor", "params": {}}]}
        )
    except CliError as error:
        checks.leave_out(what, f"no batch is taken of which that could be told: {error}")
        return
    try:
        before = time.time()
        answer = api.client.post(f"/api/batches/{batch['batchId']}/report-tokens", headers=api.headers())
        after = time.time()
    except httpx.HTTPError as error:
        checks.leave_out(what, f"a report token is not answered: {error}")
    else:
        if answer.is_error:
            checks.leave_out(what, f"no report token is given out: {Refused(answer)}")
            return
        with checks.check(what):
            until = answer.json()["expiresAt"]
            said = seconds(until) - _REPORT_TOKEN
            # it says whole seconds, cut off
            tell_clock(apart(said, said + 1, before, after), "api", f"a report token for seven days, until {until}")
    finally:
        discard(api, batch)


def discard(api: Api, batch: dict[str, Any]) -> None:
    """What was only made to be looked at; what is over cannot be cancelled, nor what is not deleted."""
    with suppress(CliError):
        api.control(batch["batchId"], "cancel")
    with suppress(CliError):
        api.delete(batch["batchId"])


def apart(first: float, last: float, before: float, after: float) -> float:
    """Seconds by which something between `first` and `last`, by their clock, was not between `before` and `after`, by
    ours. Above 0: theirs is ahead.
    """
    return max(0.0, first - after) + min(0.0, last - before)


def tell_clock(off: float, whose: str, seen: str) -> None:
    """Raises Finding if that clock is too far from ours; `off` in seconds, above 0 where it is ahead."""
    if abs(off) > CLOCKS:
        raise Finding(
            f"{whose} is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine",
            seen=f"{seen}, at {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime())} here",
            change="let all machines follow one time (chrony, systemd-timesyncd); `date -u` shows which is wrong",
        )


def seconds(stamp: str) -> float:
    """Of an RFC 3339 time, since the Unix epoch."""
    return datetime.fromisoformat(stamp).astimezone(UTC).timestamp()
