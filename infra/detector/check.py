"""Whether a model sees what is on our photographs: the one test that a conversion can fail only for good reason."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from services.worker.detectors.onnx import OnnxDetector
from services.worker.detectors.sight import DetectorError

PHOTOS = Path(__file__).resolve().parents[1] / "demo" / "photos"
EXPECTED: dict[str, set[str]] = {
    "living_room.jpg": {"chair", "tv"},
    "kitchen_appliances.jpg": {"microwave", "oven", "refrigerator"},
    "kitchen_cooking.jpg": {"person", "bowl"},
    "street.jpg": {"car", "traffic light", "person"},
}


def problems(model: Path) -> Iterator[str]:
    """Sentences; none if all is well."""
    try:
        detector = OnnxDetector(model)
        for name, expected in EXPECTED.items():
            with Image.open(PHOTOS / name) as image:
                seen = {detection.label for detection in detector.detect(image.convert("RGB"))}
            if missing := expected - seen:
                yield f"on {name} it does not see {', '.join(sorted(missing))}"
    except DetectorError as error:
        yield str(error)
