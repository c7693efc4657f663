"""The handlers, in an explicit table."""

from functools import cache, partial
from pathlib import Path

from services.worker.detector import Detector, load_detector
from services.worker.handlers.photos import photos
from services.worker.handlers.rehearsal import rehearsal
from shared.kinds.photos import PHOTOS_INVENTORY
from shared.kinds.rehearsal import REHEARSAL
from shared.updates import Handler


def make_handlers(*, unsafe: bool, detector: Path | None) -> dict[str, Handler]:
    """By kind. `unsafe` and `detector` as in the settings of the same names (`rehearsal`, `detector`)."""

    @cache
    def load() -> Detector | None:
        return load_detector(detector)

    return {
        REHEARSAL.name: partial(rehearsal, unsafe=unsafe),
        PHOTOS_INVENTORY.name: partial(photos, detector=load),
    }
