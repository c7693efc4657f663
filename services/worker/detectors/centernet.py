"""CenterNet: a heat map of object centres for each class, and at each point the distances to the edges of the box."""

from collections.abc import Sequence

import numpy as np

from services.worker.detectors.coco import LABELS
from services.worker.detectors.format import Floats, Format, Sightings

STRIDE = 4
"""Pixels of the canvas for each point of the map."""


def decode(outputs: Sequence[Floats], least: float) -> Sightings:
    """`outputs`: the heat map (classes, height, width), values 0 to 1; edges (left, top, right, bottom; height, width)
    in pixels of the canvas. An object is where the map is highest among its eight neighbours.
    """
    heat, edges = outputs
    label, y, x = np.nonzero(heat >= least)  # few of more than a million, and only their neighbours are looked at
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)))
    around = [padded[label, y + down, x + right] for down in range(3) for right in range(3)]
    peak = heat[label, y, x] == np.max(around, axis=0)
    label, y, x = label[peak], y[peak], x[peak]
    left, top, right, bottom = edges[:, y, x]
    centre_x, centre_y = x * STRIDE, y * STRIDE
    columns = (centre_x - left, centre_y - top, centre_x + right, centre_y + bottom, heat[label, y, x], label)
    return np.stack(columns, axis=1, dtype=np.float32, casting="same_kind")


FORMAT = Format(
    name="CenterNet",
    outputs=((None, len(LABELS), None, None), (None, 4, None, None)),
    decode=decode,
    white=255,
    padding=0,
    side=512,
)
