"""Which room a photograph shows, by the things that were seen in it."""

from collections.abc import Mapping

UNKNOWN = "unknown"
OUTDOORS = "outdoors"

EVIDENCE: dict[str, dict[str, int]] = {
    "kitchen": {"oven": 3, "refrigerator": 3, "microwave": 3, "toaster": 2, "bowl": 1, "knife": 1},
    "bathroom": {"toilet": 4, "toothbrush": 2, "hair drier": 2},
    "bedroom": {"bed": 4, "teddy bear": 1},
    "office": {"laptop": 2, "keyboard": 2, "mouse": 2},
    "dining room": {"dining table": 2, "wine glass": 1, "fork": 1, "spoon": 1},
    "living room": {"couch": 3, "tv": 2, "remote": 1},
    OUTDOORS: {
        "traffic light": 3,
        "stop sign": 3,
        "fire hydrant": 3,
        "parking meter": 3,
        "car": 2,
        "bus": 2,
        "truck": 2,
        "train": 2,
        "boat": 2,
        "airplane": 2,
    },
}
"""Room: how much the sight of a thing speaks for it. What stands in any room (chair, vase, clock) says nothing."""


def room_of(seen: Mapping[str, float]) -> str:
    """`seen` is the best confidence (0 to 1) of each label. A room's score adds up weight times confidence, each label
    once however many there are; the highest wins, the earlier in the table if two are equal.
    """
    scores = {
        room: sum(weight * seen.get(label, 0) for label, weight in told.items()) for room, told in EVIDENCE.items()
    }
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] > 0 else UNKNOWN
