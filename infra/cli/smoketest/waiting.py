"""What takes long: a ping after silence, and the end of a stream's life."""

import math

from msgspec import Struct

from infra.cli.api import Api
from infra.cli.smoketest.checks import Checks, expect, same
from infra.cli.smoketest.recording import record

_GRACE = 5.0
"""Seconds that something may come later than it should."""

_LONGEST_STEP = 500
"""Seconds; an attempt of a rehearsal may take 600."""


class Timing(Struct):
    """In seconds: the server's settings, and what the batch may take."""

    heartbeat: float
    lifetime: float
    patience: float


def check_waiting(checks: Checks, api: Api, timing: Timing) -> None:
    """A batch in which nothing is said for as long as a stream lives."""
    step = min(timing.lifetime + 2 * timing.heartbeat + _GRACE, _LONGEST_STEP)
    jobs = math.ceil((timing.lifetime + 2 * _GRACE) / step) + 1
    quiet = {"name": "quiet", "params": {"steps": 1, "stepMs": int(step * 1000)}}
    submission = {"kind": "rehearsal", "title": "smoke test, quiet", "concurrency": 1, "jobs": [quiet] * jobs}
    batch_id = api.create_batch(submission)["batchId"]
    path = f"/api/batches/{batch_id}/stream"
    try:
        with checks.check(f"a ping comes after {timing.heartbeat:g} s of silence"):
            silence = timing.heartbeat + _GRACE
            heard = record(api, path, until=lambda event: event.name == "ping", seconds=silence + _GRACE)
            same(heard.events[-1].name, "ping", "the last event")
            expect(isinstance(heard.events[-1].data["timestamp"], int), "its timestamp is no number")
        with checks.check(f"a stream of {timing.lifetime:g} s is ended by `timeout`, and can be taken up again"):
            life = record(api, path, seconds=timing.lifetime + _GRACE)
            same((life.events[-1].name, life.events[-1].data), ("timeout", {"reason": "lifetime"}), "the last event")
            api.control(batch_id, "cancel")
            after = record(api, path, last_id=life.ids()[-1], until=lambda event: event.id is not None)
            same(after.events[-1].data["cancelRequested"], True, "cancelRequested after cancelling it")
    finally:
        api.control(batch_id, "cancel")
