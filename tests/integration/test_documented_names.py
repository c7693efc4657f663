"""What a whole installation really uses while a batch runs, is watched and is controlled, against docs/operations.md.

Unit tests compare the document with what the code says; names that are put together elsewhere, Dramatiq's for one, show
only here.
"""

import re
from contextlib import ExitStack
from functools import cache
from itertools import takewhile
from pathlib import Path
from uuid import UUID

import httpx
import redis
import sqlalchemy as sa

from shared import models
from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, batch_row, job_rows, wait_for
from tests.support.documents import OPERATIONS
from tests.support.installation import Installation, installed
from tests.support.rehearsals import mixed
from tests.support.sse import Stream
from tests.support.web import client, submit

END = "that is all"
CHANNELS = {"PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"}
NAMELESS = {"CLIENT", "PUBSUB", "SCRIPT", "EVAL", "EVALSHA"}
"""What scripts do is told besides; what Dramatiq's are given as a key is its namespace only."""

SELDOM = {"headway:dramatiq:<queue>.XQ", "headway:dramatiq:<queue>.XQ.msgs"}
"""Dramatiq tidies up in them now and then."""

PLACES = {
    "{<id>}": r"\{[0-9a-f-]{36}\}",
    "{<sub>}": r"\{anna\}",
    "<queue>": r"[a-z]+",
    "<worker>": r"[0-9a-f-]{36}",
}


def test_every_name_in_use_is_documented_and_every_documented_name_is_in_use(
    settings: Settings, tmp_path: Path
) -> None:
    with (
        installed(settings, tmp_path, with_api=True) as whole,
        redis.Redis.from_url(whole.settings.redis_url, decode_responses=True) as hints,
        client(whole.api_address, whole.settings) as api,
        hints.monitor() as monitor,
    ):
        batch_id = UUID(submit(api, mixed(6, lasting=1, retried=False))["batchId"])
        _watch_and_control(whole, api, batch_id)
        with whole.engine.connect() as connection:
            reasons = set(connection.execute(sa.select(models.transitions.c.reason)).scalars())
        api.delete(f"/api/batches/{batch_id}").raise_for_status()
        names = {*hints.scan_iter("*"), *hints.pubsub_channels("*")}
        hints.echo(END)
        for command in takewhile(lambda told: END not in told["command"], monitor.listen()):
            names |= set(_names(hints, command["command"].split()))

    documented = set(OPERATIONS.keys("Redis"))
    matched = {name: {pattern for pattern in documented if _is(name, settings.namespace, pattern)} for name in names}
    assert [name for name, patterns in matched.items() if len(patterns) != 1] == []
    assert set().union(*matched.values()) | SELDOM == documented

    assert {"created", "started", "completed", "paused", "resumed", "cancelled", "retried", "rehearsed"} <= reasons
    assert reasons <= set(re.findall(r"`(\w+)`", OPERATIONS.section("Of jobs")))


def _watch_and_control(whole: Installation, api: httpx.Client, batch_id: UUID) -> None:
    token = issue_token(whole.settings, OWNER)
    address = f"/api/batches/{batch_id}"
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(to, batch_id, token)) for to in whole.addresses]
        for stream in streams:
            stream.until("progress")
        for action in ("pause", "resume"):
            api.post(f"{address}/{action}").raise_for_status()
        wait_for(lambda: batch_row(whole.engine, batch_id).failed, "a job to fail", 40)
        api.post(f"{address}/retry-failed").raise_for_status()
        (lasting,) = [job.id for job in job_rows(whole.engine, batch_id) if job.name == "lasts"]
        api.post(f"/api/jobs/{lasting}/cancel").raise_for_status()
        for stream in streams:
            stream.until("complete", 40)


def _names(hints: "redis.Redis", command: list[str]) -> list[str]:
    """Of keys and channels."""
    verb, *arguments = command
    if verb.upper() in NAMELESS:
        return []
    if verb.upper() in CHANNELS:
        return arguments[:1] if verb.upper() == "PUBLISH" else arguments
    return [arguments[place] for place in _places(hints, verb, len(arguments))]


@cache
def _places(hints: "redis.Redis", verb: str, arguments: int) -> list[int]:
    """Which of its arguments are keys, by what the server knows of its commands."""
    try:
        return [int(place) for place in hints.command_getkeys(verb, *range(arguments))]
    except redis.ResponseError as error:
        if "no key arguments" not in str(error):
            raise
        return []


def _is(name: str, namespace: str, pattern: str) -> bool:
    parts = re.split("(" + "|".join(map(re.escape, PLACES)) + ")", pattern)
    return (
        re.fullmatch(re.escape(namespace) + "".join(PLACES.get(part, re.escape(part)) for part in parts), name)
        is not None
    )
