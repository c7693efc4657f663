"""Inquiries: one question at a time, and nobody is left waiting."""

import asyncio

from services.stream.inquiry import Inquiry


async def test_many_who_want_to_know_share_questions() -> None:
    asked = 0

    async def read() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return asked

    answers: list[int] = []
    inquiry = Inquiry(read, answers.append, lambda: 0.5)
    await inquiry.open()
    await asyncio.gather(*(inquiry.refresh() for _ in range(100)))
    assert answers == [1, 2]
    await inquiry.close()


async def test_who_waits_when_there_is_nothing_more_to_ask_is_answered_at_once() -> None:
    going_on = asyncio.Event()

    async def read() -> None:
        await going_on.wait()

    def take(_: None) -> None:
        inquiry.end()

    inquiry = Inquiry(read, take, lambda: 0.5)
    inquiry._opened = True
    first = asyncio.create_task(inquiry.refresh())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = asyncio.create_task(inquiry.refresh())
    await asyncio.sleep(0)
    going_on.set()
    async with asyncio.timeout(10):
        await asyncio.gather(first, second)
        await inquiry.refresh()
    await inquiry.close()
