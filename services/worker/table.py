"""The handlers, in an explicit table, and those of plug-ins. Each is made only in a worker whose queue has its kind."""

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, cast

from services.worker.handlers.rehearsal import rehearsal
from shared.kinds import KINDS, PLUGINS
from shared.kinds.photos import PHOTOS_INVENTORY
from shared.kinds.plugin import Plugin, PluginError
from shared.kinds.rehearsal import REHEARSAL
from shared.settings import Settings
from shared.updates import Handler

if TYPE_CHECKING:
    from services.worker.detector import Detector


def _rehearsal(settings: Settings) -> Handler:
    return partial(rehearsal, unsafe=settings.rehearsal == "unsafe")


def _photos(settings: Settings) -> Handler:
    # numpy, Pillow and the model's engine are heavy, and no other queue needs them
    from services.worker.detector import load_detector  # noqa: PLC0415
    from services.worker.handlers.photos import photos  # noqa: PLC0415

    @cache
    def detector() -> "Detector | None":
        return load_detector(settings.detector)

    return partial(photos, detector=detector)


_MAKERS: dict[str, Callable[[Settings], Handler]] = {REHEARSAL.name: _rehearsal, PHOTOS_INVENTORY.name: _photos}


def make_handlers(settings: Settings, queue: str) -> dict[str, Handler]:
    """The handlers of a queue's kinds, by kind. Raises PluginError."""
    ours = {name: make(settings) for name, make in _MAKERS.items() if KINDS[name].queue == queue}
    return ours | {name: _theirs(name, plugin) for name, plugin in PLUGINS.items() if plugin.kind.queue == queue}


def _theirs(name: str, plugin: Plugin) -> Handler:
    module, _, attribute = plugin.handler.partition(":")
    try:
        handler = getattr(import_module(module), attribute)
    except Exception as error:
        message = f"The plug-in {name} cannot be used: {plugin.handler}: {type(error).__name__}: {error}"
        raise PluginError(message) from error
    if not callable(handler):
        raise PluginError(f"The plug-in {name} cannot be used: {plugin.handler} is no handler")
    return cast("Handler", handler)
