"""Ending tasks that would go on for ever."""

import asyncio

_AGAIN = 0.2
"""Seconds before a task is cancelled once more: in Python 3.11 `asyncio.wait_for`, by which redis-py sends, swallows a
cancellation that comes just when it is through."""


async def end(*tasks: "asyncio.Task[None]") -> None:
    """Returns when all of them have ended, whatever they ended with."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_AGAIN)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # has been looked at
