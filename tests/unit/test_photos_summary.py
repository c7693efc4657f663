"""What a batch of photos adds up to, which room is which, and that docs/photos.md says the same as the code."""

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.detectors.coco import LABELS
from services.worker.detectors.onnx import LEAST
from services.worker.handlers.picture import MOST_PIXELS
from shared.kinds.furniture import LITRES
from shared.kinds.photos import Inventory, Item, PhotoFile, cubic_metres, summarise
from shared.kinds.rooms import EVIDENCE, OUTDOORS, UNKNOWN, room_of

DOCS = Path(__file__).resolve().parents[2] / "docs" / "photos.md"


def inventory(room: str, counts: dict[str, int], detector: str | None = "D") -> Inventory:
    items = tuple(
        Item(
            label, count, 0.5, ((0, 0, 1, 1),) * count, cubic_metres(LITRES[label]), cubic_metres(LITRES[label] * count)
        )
        for label, count in counts.items()
    )
    total = cubic_metres(sum(LITRES[label] * count for label, count in counts.items()))
    file = PhotoFile("p.jpg", 4, 3, "JPEG", 99)
    return Inventory(file, detector, room, items, sum(counts.values()), total)


def test_a_batch_adds_up() -> None:
    summary = summarise(
        [
            inventory("kitchen", {"oven": 1, "chair": 2}),
            inventory("living room", {"chair": 1, "tv": 1, "book": 3}),
            inventory("kitchen", {"bowl": 1}),
            inventory("outdoors", {}),
            inventory("unknown", {}, detector=None),
        ]
    )
    assert msgspec.json.decode(msgspec.json.encode(summary)) == {
        "photos": 5,
        "totalItems": 9,
        "totalVolume": 1.411,
        "byRoom": {
            "kitchen": {"photos": 2, "items": 4, "volume": 0.905},
            "living room": {"photos": 1, "items": 5, "volume": 0.506},
            "outdoors": {"photos": 1, "items": 0, "volume": 0.0},
            "unknown": {"photos": 1, "items": 0, "volume": 0.0},
        },
        "items": [
            {"label": "chair", "count": 3, "volume": 0.9},
            {"label": "oven", "count": 1, "volume": 0.3},
            {"label": "tv", "count": 1, "volume": 0.2},
            {"label": "book", "count": 3, "volume": 0.006},
            {"label": "bowl", "count": 1, "volume": 0.005},
        ],
        "withoutDetector": 1,
    }


def test_no_photo_completed() -> None:
    assert msgspec.to_builtins(summarise([])) == {
        "photos": 0,
        "totalItems": 0,
        "totalVolume": 0.0,
        "byRoom": {},
        "items": (),
        "withoutDetector": 0,
    }


COUNTS = st.dictionaries(st.sampled_from(sorted(LITRES)), st.integers(1, 30), max_size=6)


@given(st.lists(st.tuples(st.sampled_from([*EVIDENCE, UNKNOWN]), COUNTS), max_size=40))
def test_sums_agree_with_each_other_to_the_litre(photos: list[tuple[str, dict[str, int]]]) -> None:
    summary = summarise(inventory(room, counts) for room, counts in photos)
    litres = sum(LITRES[label] * count for _, counts in photos for label, count in counts.items())
    assert summary.total_volume == litres / 1000
    assert sum(round(room.volume * 1000) for room in summary.by_room.values()) == litres
    assert sum(round(item.volume * 1000) for item in summary.items) == litres
    assert sum(room.items for room in summary.by_room.values()) == summary.total_items
    assert sum(item.count for item in summary.items) == summary.total_items
    assert sum(room.photos for room in summary.by_room.values()) == summary.photos == len(photos)


@pytest.mark.parametrize(
    ("seen", "room"),
    [
        ({}, UNKNOWN),
        ({"person": 0.99, "chair": 0.99, "sink": 0.9}, UNKNOWN),
        ({"tv": 0.5, "chair": 0.9}, "living room"),
        ({"oven": 0.5, "dining table": 0.6, "tv": 0.6}, "kitchen"),
        ({"bed": 0.5, "tv": 0.9}, "bedroom"),
        ({"toilet": 0.6, "sink": 0.9}, "bathroom"),
        ({"tv": 0.9, "keyboard": 0.6, "mouse": 0.6}, "office"),
        ({"dining table": 0.6, "chair": 0.9, "wine glass": 0.4}, "dining room"),
        ({"couch": 0.8, "dining table": 0.9}, "living room"),
        ({"couch": 0.5, "dining table": 0.9}, "dining room"),  # surer of the table
        ({"car": 0.6, "traffic light": 0.5, "person": 0.9}, OUTDOORS),
        ({"car": 0.5, "couch": 0.9}, "living room"),  # a car behind a window
        ({"laptop": 0.5, "tv": 0.5}, "office"),  # equal: the earlier in the table
    ],
)
def test_rooms(seen: dict[str, float], room: str) -> None:
    assert room_of(seen) == room


def test_everything_named_can_be_seen() -> None:
    named = set(LITRES) | {label for things in EVIDENCE.values() for label in things}
    assert named <= set(LABELS)


# --- docs/photos.md


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    section = re.split(r"^## ", DOCS.read_text(), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(heading + "\n"))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_documented_volumes() -> None:
    assert {label: round(float(volume) * 1000) for label, volume, _ in rows("Volumes")} == LITRES


def test_documented_exceptions_and_items_are_all_that_a_detector_knows() -> None:
    excepted = [label for labels, _ in rows("What is not an item") for label in labels.split(", ")]
    assert sorted(excepted + list(LITRES)) == sorted(LABELS)


def test_documented_rooms() -> None:
    told = {
        room: {label: int(weight) for label, weight in (pair.rsplit(" ", 1) for pair in evidence.split(", "))}
        for room, evidence in rows("Rooms")
    }
    assert told == EVIDENCE
    assert list(told) == list(EVIDENCE)


def test_documented_limits() -> None:
    text = DOCS.read_text()
    assert f"{MOST_PIXELS // 10**6} megapixels" in text
    assert f"below {LEAST}" in text
