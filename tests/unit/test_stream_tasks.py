"""Ending tasks: also those that miss the first call."""

import asyncio
from contextlib import suppress

from services.stream.tasks import end


async def for_ever(deaf: int = 0) -> None:
    """Misses so many cancellations."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if deaf == 0:
                raise
            deaf -= 1


async def breaks() -> None:
    raise ConnectionError


async def test_every_task_ends() -> None:
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(work) for work in (for_ever(), for_ever(2), breaks(), asyncio.sleep(0))]
    await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        await end(*tasks)
        await end()
    assert all(task.done() for task in tasks)


async def test_whoever_waits_may_be_cancelled() -> None:
    task = asyncio.get_running_loop().create_task(for_ever(1000))
    await asyncio.sleep(0.01)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await end(task)
    assert not task.done()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
