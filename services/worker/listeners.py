"""Listeners that installed packages bring, by name."""

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from shared.kinds.plugin import PluginError
from shared.listeners import GROUP, Listener

_LONGEST = 200
"""Characters of a name."""


def load_listeners(points: Iterable[EntryPoint] | None = None) -> dict[str, Listener]:
    """Raises PluginError, which ends the process: nobody is to believe that a listener is told when it is not."""
    listeners: dict[str, Listener] = {}
    for point in sorted(entry_points(group=GROUP) if points is None else points, key=lambda point: point.name):
        package = f" of the package {point.dist.name}" if point.dist else ""
        called = f"The listener {point.name}{package} (entry point of {GROUP})"
        if point.name in listeners:
            raise PluginError(f"{called} cannot be used: there is one of that name already")
        if len(point.name) > _LONGEST:
            raise PluginError(f"{called} cannot be used: its name has more than {_LONGEST} characters")
        listeners[point.name] = _load(point, called)
    return listeners


def _load(point: EntryPoint, called: str) -> Listener:
    try:
        listener = point.load()
    except Exception as error:
        raise PluginError(f"{called} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(listener):
        raise PluginError(f"{called} cannot be used: {point.value} cannot be called")
    told: Listener = listener
    return told
