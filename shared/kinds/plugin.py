"""Kinds that other installed packages bring: entry points of the group `headway.handlers`, each named for its kind.

    [project.entry-points."headway.handlers"]
    "invoices.render" = "invoices.headway:RENDER"

where RENDER is a `Plugin`. docs/handlers.md shows a whole one.
"""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

import msgspec
from msgspec import Struct

from shared.kinds.kind import Kind

GROUP = "headway.handlers"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_QUEUE = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}")
_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

_MOST = 1_000_000
"""Jobs that run at once or start in a second: what HEADWAY_LIMITS takes, too. Claims would fail at other numbers."""


class Plugin(Struct, frozen=True, kw_only=True):
    kind: Kind
    handler: str
    """`module:name` of the handler. Only a worker whose queue has the kind imports it, so it may be heavy."""


class PluginError(SystemExit):
    """One sentence that names the package and the entry point. It ends whatever process has them load: half of an
    installation would refuse what the other half takes.
    """


def load_plugins(taken: Mapping[str, Kind], points: Iterable[EntryPoint] | None = None) -> dict[str, Plugin]:
    """By kind. `taken`: the kinds that are there without them. Raises PluginError."""
    plugins: dict[str, Plugin] = {}
    for point in sorted(entry_points(group=GROUP) if points is None else points, key=lambda point: point.name):
        if point.name in taken or point.name in plugins:
            raise PluginError(f"{_called(point)} cannot be used: there is a kind of that name already")
        plugins[point.name] = _load(point)
    return plugins


def _load(point: EntryPoint) -> Plugin:
    try:
        plugin = point.load()
    except Exception as error:
        raise PluginError(f"{_called(point)} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(plugin, Plugin):
        raise PluginError(f"{_called(point)} cannot be used: {point.value} is no Plugin (shared/kinds/plugin.py)")
    if wrong := _wrong(plugin, point.name):
        raise PluginError(f"{_called(point)} cannot be used: {wrong}")
    return plugin


def _wrong(plugin: Plugin, name: str) -> str | None:
    kind = plugin.kind
    if kind.name != name:
        return f"its kind is called {kind.name}, and has to be called as the entry point is"
    if not _NAME.fullmatch(name):
        return "a kind's name is made of a-z, 0-9, `.`, `-` and `_`"
    if not _QUEUE.fullmatch(kind.queue):
        return "a queue's name is made of a-z, 0-9, `-` and `_`"
    if not _PLACE.fullmatch(plugin.handler):
        return f"its handler is to be given as module:name, not as {plugin.handler}"
    if kind.max_attempts < 1 or not kind.time_limit > 0 or not 0 <= kind.backoff[0] <= kind.backoff[1]:
        return "its attempts, its time limit or its backoff make no sense"
    if any(limit is not None and not 0 < limit <= _MOST for limit in (kind.concurrency, kind.rate)):
        return f"its concurrency and its rate have to be more than 0, and {_MOST} at most"
    try:
        msgspec.json.schema(kind.params)
    except Exception as error:  # noqa: BLE001  # whatever it says of a type that it does not know
        return f"its parameters cannot be described: {type(error).__name__}: {error}"
    return None


def _called(point: EntryPoint) -> str:
    package = f" of the package {point.dist.name}" if point.dist else ""
    return f"The plug-in {point.name}{package} (entry point of {GROUP})"
