"""What a detector says of a photo."""

from msgspec import Struct


class Detection(Struct, frozen=True):
    label: str
    """One of COCO's 80."""
    confidence: float
    """0 to 1."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom as fractions of the photo's width and height, within 0 to 1."""


class DetectorError(Exception):
    """The detector that is set cannot be used; one sentence for people, without the path of the file."""
