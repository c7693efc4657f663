"""YOLO, versions 8 to 12, as their exporters write them: a column for each candidate, with its box and class scores."""

from collections.abc import Sequence

import numpy as np

from services.worker.detectors.coco import LABELS
from services.worker.detectors.format import Floats, Format, Sightings


def decode(outputs: Sequence[Floats], least: float) -> Sightings:
    """`outputs`: one of (4 + classes, candidates): centre x and y, width and height in pixels of the canvas, then the
    confidence for each class. Many candidates are of the same object.
    """
    boxes, scores = outputs[0][:4], outputs[0][4:]
    label, confidence = scores.argmax(axis=0), scores.max(axis=0)
    sure = confidence >= least
    x, y, width, height = boxes[:, sure]
    columns = (
        x - width / 2,
        y - height / 2,
        x + width / 2,
        y + height / 2,
        confidence[sure],
        label[sure],
    )
    return np.stack(columns, axis=1, dtype=np.float32, casting="same_kind")


FORMAT = Format(name="YOLO", outputs=((None, 4 + len(LABELS), None),), decode=decode, white=1, padding=114, side=640)
