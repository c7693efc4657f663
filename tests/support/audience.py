"""The audience of a batch: viewers of each kind, and what is asked of them together in the end."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from shared.auth import issue_token
from shared.event_ids import LOGS_MAX, Filters
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.distant import Distant
from tests.support.feed_viewers import FeedViewer
from tests.support.history import History
from tests.support.socket_viewers import LogViewer, SocketViewer
from tests.support.viewers import Habits, Poller, Viewer


class Audience:
    """Several viewers of one batch."""

    def __init__(self, settings: Settings, batch_id: UUID, addresses: Sequence[str]) -> None:
        self._token = issue_token(settings, OWNER, ttl=24 * 3600)  # longer than any clock is set ahead
        self._batch_id = batch_id
        self._addresses = addresses
        self.viewers: list[Viewer | Distant] = []

    def enter(self, name: str, *, jobs: Any = "all", logs: int = LOGS_MAX, kind: Any = Viewer, **habits: Any) -> Any:
        """`kind`: the class of such a viewer, which is returned."""
        filters = Filters(jobs, logs)
        viewer = kind(self._addresses, self._batch_id, self._token, name, filters, Habits(**habits))
        self.viewers.append(viewer)
        return viewer

    def enter_all(self) -> None:
        """One of each kind."""
        self.enter("stays at the first", replicas=[0])
        self.enter("stays at the second", replicas=[1 % len(self._addresses)])
        self.enter("alternates")
        self.enter("wants little", jobs="changed", logs=5)
        self.enter("wants no lines", jobs="changed", logs=0)
        self.enter("wants no jobs", jobs="none", logs=20, cut=0.02)
        self.enter("is cut off", cut=0.05)
        self.enter("is slow", pause=0.03, cut=0.01)
        self.enter("asks for changes", kind=Poller, cut=0.1)
        self.enter("has a WebSocket", kind=SocketViewer, logs=0, cut=0.02)
        self.enter("has one for the log", kind=LogViewer, cut=0.02)
        self.enter("has the owner's feed", kind=FeedViewer, cut=0.02)

    def see_the_end(self, history: History, seconds: float = 20, **allowed: Any) -> None:
        """The batch is finished for good: everybody hears of it, and what they saw is checked, as is what was there."""
        history.read()
        for viewer in self.viewers:
            viewer.stay_to_the_end(history.last.version)
        until = time.monotonic() + seconds
        late = [viewer.recording.name for viewer in self.viewers if not viewer.join(until)]
        self.leave()
        history.check()
        for viewer in self.viewers:
            viewer.check(history, finished=viewer.recording.name not in late, **allowed)
        assert not late, f"the batch is at version {history.last.version}, and not all came there"

    def leave(self) -> None:
        for viewer in self.viewers:
            viewer.leave()
        for viewer in self.viewers:
            assert viewer.join(time.monotonic() + 30), "a viewer hangs"


@contextmanager
def watched(settings: Settings, batch_id: UUID, addresses: Sequence[str]) -> Iterator[Audience]:
    """One viewer of each kind; all leave in the end."""
    audience = Audience(settings, batch_id, addresses)
    try:
        audience.enter_all()
        yield audience
    finally:
        audience.leave()
