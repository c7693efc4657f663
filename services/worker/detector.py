"""The seam between the inventory of photos and whatever recognises objects."""

from pathlib import Path
from threading import Lock
from typing import Protocol

from PIL import Image

from services.worker.detectors.onnx import OnnxDetector
from services.worker.detectors.sight import Detection, DetectorError

__all__ = ["Detection", "Detector", "DetectorError", "load_detector"]


class Detector(Protocol):
    """Used by several threads at once."""

    name: str

    def detect(self, image: Image.Image) -> list[Detection]:
        """The household and other things on an upright RGB image, the surest first. Raises DetectorError."""
        ...


_lock = Lock()
_loaded: dict[Path, Detector] = {}


def load_detector(path: Path | None) -> Detector | None:
    """The detector in the ONNX file `path`, loaded once per process; None when none is set. Raises DetectorError, each
    time anew: a file that is put there later is found.
    """
    if path is None:
        return None
    with _lock:
        if path not in _loaded:
            _loaded[path] = OnnxDetector(path)
        return _loaded[path]
