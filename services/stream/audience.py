"""An audience: who watches one topic, and who of them is at rest, for whom one cursor and one loop of writes will do.

A viewer is at rest while it has been sent all that there was and can be sent more. All at rest with the same filters
make a crowd: they are at the same place, so the crowd's position is theirs, and nobody looks at each of them when
something is new.
"""

from typing import TYPE_CHECKING, Protocol

from services.stream.causes import Causes
from services.stream.metrics import UNCOUNTED

if TYPE_CHECKING:
    from services.stream.delivery import Position
    from services.stream.viewer import Viewer
    from shared.event_ids import Filters


class Resting(Protocol):
    """Whatever has a viewer and a socket of its own."""

    viewer: "Viewer"

    def carry_on(self, rest: bytes, committed: int) -> None:
        """The socket did not take all that it was sent in its crowd, but not this. `committed`: as in Delivery."""


class Crowd:
    """Of one choice of filters. Members are known by their sockets, to which whoever has news may write."""

    __slots__ = ("before", "committed", "frame", "members", "pending", "position", "spoke")

    def __init__(self, position: "Position", now: float) -> None:
        self.members: dict[int, Resting] = {}
        self.position = position
        """Of all members, but for those in `pending`, who are `before` it and get `frame` next."""
        self.before = position
        self.pending: set[int] = set()
        self.frame = b""
        self.committed = 0
        """When what is in `frame` was, as in Delivery."""
        self.spoke = now
        """When members were last sent something, by the clock of the event loop."""


class Audience:
    """Of one topic."""

    __slots__ = ("awake", "behind", "causes", "crowds", "metrics", "told", "viewers")

    def __init__(self) -> None:
        self.viewers: set[Viewer] = set()
        self.awake: set[Viewer] = set()
        """Those who are in no crowd."""
        self.crowds: dict[Filters, Crowd] = {}
        self.metrics = UNCOUNTED
        self.causes = Causes()
        self.told = self.behind = 0
        """The version that everybody was told of last, and the one before: who has less than that did not keep up."""

    def tell(self, version: int) -> None:
        """Everybody is about to be told of it."""
        if version != self.told:
            self.behind, self.told = self.told if version > self.told else 0, version

    def enter(self, viewer: "Viewer") -> None:
        self.viewers.add(viewer)
        self.awake.add(viewer)

    def leave(self, viewer: "Viewer") -> None:
        self.wake(viewer)
        self.viewers.discard(viewer)
        self.awake.discard(viewer)

    def rest(self, one: Resting, socket: int, now: float) -> None:
        """Its viewer has been sent all that there is. Where the crowd is elsewhere just now, it stays awake."""
        viewer = one.viewer
        crowd = self.crowds.get(viewer.filters)
        if crowd is None:
            crowd = self.crowds[viewer.filters] = Crowd(viewer.position, now)
        elif crowd.position != viewer.position:
            return
        crowd.members[socket] = one
        viewer.socket = socket
        self.awake.discard(viewer)

    def spoke(self, viewer: "Viewer") -> float:
        """When it was last sent something, by the clock of the event loop."""
        return viewer.spoke if viewer.socket < 0 else max(viewer.spoke, self.crowds[viewer.filters].spoke)

    def wake(self, viewer: "Viewer") -> None:
        """It is on its own again, and knows where it is."""
        socket = viewer.socket
        if socket < 0:
            return
        crowd = self.crowds[viewer.filters]
        viewer.spoke = max(viewer.spoke, crowd.spoke)
        viewer.position = crowd.position
        viewer.socket = -1
        del crowd.members[socket]
        if socket in crowd.pending:
            crowd.pending.discard(socket)
            viewer.position = crowd.before
        if not crowd.members:
            del self.crowds[viewer.filters]
        self.awake.add(viewer)
