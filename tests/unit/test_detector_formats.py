"""What models of each format say, on numbers small enough to work out by hand."""

import numpy as np
import pytest

from services.worker.detectors import centernet, yolo
from services.worker.detectors.coco import LABELS
from services.worker.detectors.distinct import distinct
from services.worker.detectors.format import Floats

CHAIR, COUCH, TV = (LABELS.index(label) for label in ("chair", "couch", "tv"))


def centernet_outputs(*objects: tuple[int, int, int, float, tuple[float, ...]]) -> list[Floats]:
    """(class, x, y, confidence, edges) each, in points of a map of 8 x 8."""
    heat, edges = np.zeros((80, 8, 8), dtype=np.float32), np.zeros((4, 8, 8), dtype=np.float32)
    for label, x, y, confidence, distances in objects:
        heat[label, y, x] = confidence
        edges[:, y, x] = distances
    return [heat, edges]


def test_there_are_eighty_classes() -> None:
    assert len(set(LABELS)) == len(LABELS) == 80


def test_centernet_box_is_the_distances_from_its_centre() -> None:
    found = centernet.decode(centernet_outputs((CHAIR, 3, 5, 0.9, (1, 2, 3, 4))), 0.4)
    assert found.tolist() == [[11, 18, 15, 24, pytest.approx(0.9), CHAIR]]


def test_centernet_reports_peaks_only() -> None:
    outputs = centernet_outputs(
        (CHAIR, 3, 3, 0.9, (1, 1, 1, 1)),
        (CHAIR, 4, 4, 0.8, (1, 1, 1, 1)),  # the slope of the first
        (CHAIR, 6, 6, 0.5, (1, 1, 1, 1)),  # another one
        (TV, 4, 4, 0.7, (1, 1, 1, 1)),  # of another class
        (TV, 0, 0, 0.39, (1, 1, 1, 1)),  # not sure enough
    )
    found = centernet.decode(outputs, 0.4)
    assert [(row[5], round(float(row[4]), 2)) for row in found] == [(CHAIR, 0.9), (CHAIR, 0.5), (TV, 0.7)]


@pytest.mark.parametrize("corner", [(0, 0), (7, 0), (0, 7), (7, 7)])
def test_centernet_sees_to_the_edge(corner: tuple[int, int]) -> None:
    found = centernet.decode(centernet_outputs((TV, *corner, 0.6, (1, 1, 1, 1))), 0.4)
    assert len(found) == 1


def test_centernet_sees_nothing_in_noise_and_in_no_numbers() -> None:
    heat = np.full((80, 8, 8), 0.3, dtype=np.float32)
    heat[TV, 2, 2] = np.nan
    assert centernet.decode([heat, np.ones((4, 8, 8), dtype=np.float32)], 0.4).shape == (0, 6)


def test_yolo_box_is_centre_and_size() -> None:
    output = np.zeros((84, 3), dtype=np.float32)
    output[:, 1] = [100, 50, 20, 10] + [0] * 80
    output[4 + COUCH, 1] = 0.8
    output[4 + CHAIR, 1] = 0.7  # of one candidate the likeliest class counts
    output[4 + TV, 2] = 0.39
    assert yolo.decode([output], 0.4).tolist() == [[90, 45, 110, 55, pytest.approx(0.8), COUCH]]


def row(left: float, width: float, confidence: float, label: int) -> list[float]:
    return [left, 0, left + width, 10, confidence, label]


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([], []),
        ([row(0, 10, 0.5, TV)], [0]),
        ([row(0, 10, 0.5, TV), row(20, 10, 0.9, TV)], [1, 0]),
        ([row(0, 10, 0.5, TV), row(2, 10, 0.9, TV)], [1]),  # two thirds in common
        ([row(0, 10, 0.5, TV), row(5, 10, 0.9, TV)], [1, 0]),  # one third
        ([row(0, 10, 0.5, TV), row(2, 10, 0.9, COUCH)], [1, 0]),  # a thing on another
        ([row(0, 10, 0.5, TV), row(1, 10, 0.9, COUCH)], [1]),  # one thing, two opinions
        # the third shows the second, which shows the first: it goes by what was kept only
        ([row(0, 10, 0.9, TV), row(3, 10, 0.8, TV), row(6, 10, 0.7, TV)], [0, 2]),
        ([row(0, 0, 0.9, TV), row(0, 0, 0.8, TV)], [0, 1]),  # no area, no overlap, no division by zero
    ],
)
def test_one_object_is_reported_once(rows: list[list[float]], kept: list[int]) -> None:
    sightings = np.array(rows, dtype=np.float32).reshape(-1, 6)
    assert distinct(sightings, 10).tolist() == [sightings[at].tolist() for at in kept]


def test_the_surest_stay_when_there_are_too_many() -> None:
    sightings = np.array([row(20 * n, 10, n / 100, TV) for n in range(50)], dtype=np.float32)
    assert [round(float(one[4]) * 100) for one in distinct(sightings, 3)] == [49, 48, 47]
