"""The real detector, for tests of what is seen on real photographs."""

import os
from pathlib import Path

from infra.detector.check import PHOTOS
from tests.support.needs import needs

__all__ = ["PHOTOS", "detector_path"]


def detector_path() -> Path:
    """The file that HEADWAY_DETECTOR names, or what `make detector` left here. Without one the test is skipped, in CI
    it fails.
    """
    root = Path(__file__).resolve().parents[2]
    path = Path(os.environ.get("HEADWAY_DETECTOR") or root / ".headway" / "detector.onnx")
    needs("detector (`make detector` builds it)", there=path.is_file())
    return path
