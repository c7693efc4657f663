"""Threads for what reads and writes files, apart from all others: while a store or a disk stands still, requests that
need none are answered, those that ask whether we are ready among them.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

_THREADS = 16
"""Files that are worked on at once; the others wait."""


class Filing:
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="files")

    async def do(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """As `sync_to_thread`, in one of these."""
        call = partial(copy_context().run, function, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Does not wait."""
        self._threads.shutdown(wait=False, cancel_futures=True)
