"""Requests that come at once begin a few at a time, and nobody is forgotten."""

import asyncio
import itertools

from shared.web.turns import _AT_ONCE, Turns


async def test_few_begin_in_one_round_of_the_loop_and_all_in_the_end() -> None:
    begun: list[int] = []
    seen: list[int] = []

    async def app(_scope: object, number: int, _send: object) -> None:
        begun.append(number)

    turns = Turns(app)
    loop = asyncio.get_running_loop()

    def look() -> None:
        seen.append(len(begun))
        if len(begun) < 500:
            loop.call_soon(look)

    loop.call_soon(look)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(turns({"type": "http", "path": "/"}, number, None)) for number in range(500)]
        await asyncio.sleep(0)
        left = tasks[-1]
        left.cancel()  # its client has gone
    assert begun == list(range(499))
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 2 * _AT_ONCE
    await turns({"type": "http", "path": "/"}, 1000, None)
    assert begun[-1] == 1000


async def test_probes_do_not_wait() -> None:
    answered: list[str] = []

    async def app(scope: dict[str, str], _receive: object, _send: object) -> None:
        answered.append(scope["path"])

    turns = Turns(app)
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(turns({"type": "http", "path": f"/{number}"}, None, None))
        group.create_task(turns({"type": "http", "path": "/health/live"}, None, None))
    assert answered.index("/health/live") < 2 * _AT_ONCE
