"""A process with many viewers leaves: all are told, come back elsewhere spread over a while, and miss nothing."""

import asyncio
import signal
import time
from collections.abc import Callable

from msgspec.structs import replace

from services.stream.limits import room_for
from shared.settings import Settings
from tests.support.crowd import Crowd
from tests.support.metrics import Numbers
from tests.support.streams import stream_process
from tests.support.writer import Writer

VIEWERS = 1000
GRACE = 12.0


async def test_a_thousand_viewers_move_to_another_replica(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    assert room_for(VIEWERS) == VIEWERS, "this test needs more open files"
    settings = replace(settings, drain_grace=GRACE)
    writer = make_writer()
    with stream_process(settings) as (leaving, process), stream_process(settings) as (staying, _):
        crowd = Crowd(VIEWERS, [leaving, staying], writer.batch_id, token)
        try:
            writer.start(0)
            await crowd.until(lambda member: member.record.version >= 2, "to have begun")
            process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            percent = 0
            while not all(member.ends for member in crowd.members):
                percent += 1
                writer.progress(0, min(percent, 99), lines=2)
                await asyncio.sleep(0.05)
                assert time.monotonic() - asked < GRACE, "not all were told in time"
            told = time.monotonic() - asked
            version = writer.progress(0, 99, lines=1)
            await crowd.until(lambda member: member.record.version >= version, "to be there again")
            numbers = Numbers(staying).read()
            code = await asyncio.to_thread(process.wait, GRACE)
            left = time.monotonic() - asked
            writer.finish(0)
            await crowd.see_the_end()
        finally:
            await crowd.leave()
        state = writer.state()

    assert code == 0
    assert told < GRACE / 2, "before the door is closed"
    assert left < GRACE
    assert {tuple(member.ends) for member in crowd.members} == {("draining", "complete")}
    for member in crowd.members:
        assert member.record.jobs == state["jobs"]
        assert member.record.lines == state["lines"]
    assert numbers["viewers"] == VIEWERS
    assert numbers["resumes_total{memory}"] + numbers["resumes_total{postgresql}"] == VIEWERS
    assert numbers["resumes_total{snapshot}"] == 0
    # asked to come back over six seconds, not all at once
    retries = [retry for member in crowd.members for retry in member.retries]
    assert len(retries) == VIEWERS
    assert min(retries) >= 2000
    assert max(retries) <= 8000
    assert all(
        sum(start <= retry < start + 1000 for retry in retries) < VIEWERS / 3 for start in range(2000, 8000, 1000)
    )
