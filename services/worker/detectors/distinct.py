"""One object, one sighting: models report the same thing more than once."""

import numpy as np

from services.worker.detectors.format import Floats, Sightings

SAME_CLASS = 0.5
"""Overlap (intersection over union) from which two of one class are one thing."""
ANY_CLASS = 0.75
"""The same for two classes (a cup and a bowl at one place), higher because a person does sit in a chair."""


def distinct(sightings: Sightings, most: int) -> Sightings:
    """The surest first, `most` of them, without those that show what a surer one shows."""
    rest = sightings[np.argsort(-sightings[:, 4], kind="stable")]
    kept: list[Floats] = []
    while len(rest) and len(kept) < most:
        first, rest = rest[0], rest[1:]
        kept.append(first)
        rest = rest[_overlap(first, rest) < np.where(rest[:, 5] == first[5], SAME_CLASS, ANY_CLASS)]
    return np.array(kept, dtype=np.float32).reshape(-1, 6)


def _overlap(one: Floats, others: Sightings) -> Floats:
    width = np.minimum(one[2], others[:, 2]) - np.maximum(one[0], others[:, 0])
    height = np.minimum(one[3], others[:, 3]) - np.maximum(one[1], others[:, 1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    area = (one[2] - one[0]) * (one[3] - one[1])
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    overlap: Floats = common / np.maximum(area + areas - common, np.float32(1e-6))
    return overlap
