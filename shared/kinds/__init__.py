"""The kinds of job, in an explicit table."""

from shared.kinds.kind import Kind
from shared.kinds.photos import PHOTOS_INVENTORY
from shared.kinds.rehearsal import REHEARSAL

KINDS: dict[str, Kind] = {kind.name: kind for kind in (REHEARSAL, PHOTOS_INVENTORY)}
QUEUES: tuple[str, ...] = tuple(sorted({kind.queue for kind in KINDS.values()}))
