"""How many log lines a batch had at versions from before what a topic keeps: asked together, and remembered."""

import asyncio
from uuid import UUID

from services.stream.history import History

_REMEMBERED = 1000
"""Versions. Many come back to the same ones: those that everybody was sent before all were cut off."""


class LineCounts:
    """Of one batch. However many readers return at once, there is one question under way, and one more for those who
    came meanwhile.
    """

    def __init__(self, batch_id: UUID, history: History) -> None:
        self._batch_id = batch_id
        self._history = history
        self._known: dict[int, int] = {}
        self._turn = asyncio.Lock()
        self._next: tuple[set[int], asyncio.Task[dict[int, int]]] | None = None
        self._tasks: set[asyncio.Task[dict[int, int]]] = set()

    async def at(self, version: int) -> int:
        """Raises Unavailable."""
        count = self._known.get(version)
        if count is not None:
            return count
        if self._next is None:
            task = asyncio.get_running_loop().create_task(self._ask())
            self._tasks.add(task)
            task.add_done_callback(self._done)
            self._next = set(), task
        versions, task = self._next
        versions.add(version)
        return (await asyncio.shield(task)).get(version, 0)

    def forget(self) -> None:
        """Versions have another meaning now."""
        self._known = {}

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _ask(self) -> dict[int, int]:
        async with self._turn:
            assert self._next is not None  # noqa: S101  # it was made for this
            versions, _ = self._next
            self._next = None
            known = self._known
            counts = await self._history.line_counts(self._batch_id, versions)
        known.update(counts)
        while len(known) > _REMEMBERED:
            del known[next(iter(known))]
        return counts

    def _done(self, task: "asyncio.Task[dict[int, int]]") -> None:
        """Whoever waited has been told; perhaps nobody did."""
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()
