"""The secrets of all jobs that run in this process, for what is written by it: a handler's threads may log as well."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from shared.kinds.mask import Mask


class Masks:
    """Call it with a text."""

    def __init__(self) -> None:
        self._masks: tuple[Mask, ...] = ()
        self._lock = Lock()

    def __call__(self, text: str) -> str:
        for mask in self._masks:
            text = mask(text)
        return text

    @contextmanager
    def also(self, mask: Mask) -> Iterator[None]:
        """While a job runs."""
        if not mask:
            yield
            return
        with self._lock:
            self._masks = (*self._masks, mask)
        try:
            yield
        finally:
            with self._lock:
                left = list(self._masks)
                left.remove(mask)
                self._masks = tuple(left)
