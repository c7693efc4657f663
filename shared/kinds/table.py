"""The table of kinds: ours, and those of plug-ins that are installed."""

from shared.kinds.external import EXTERNAL
from shared.kinds.kind import Kind
from shared.kinds.photos import PHOTOS_INVENTORY
from shared.kinds.plugin import load_plugins
from shared.kinds.rehearsal import REHEARSAL

_OURS: dict[str, Kind] = {kind.name: kind for kind in (REHEARSAL, PHOTOS_INVENTORY, EXTERNAL)}
PLUGINS = load_plugins(_OURS)
KINDS: dict[str, Kind] = _OURS | {name: plugin.kind for name, plugin in PLUGINS.items()}
QUEUES: tuple[str, ...] = tuple(sorted({kind.queue for kind in KINDS.values() if kind.queue}))
