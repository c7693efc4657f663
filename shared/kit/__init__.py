"""The handlers' kit: what handlers may `yield from`. docs/handlers.md shows how."""

from shared.kit.commands import run
from shared.kit.tracking import Tracked, track

__all__ = ["Tracked", "run", "track"]
