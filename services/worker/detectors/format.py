"""What a model's format is made of, for those who write one and for the detector that uses it."""

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Shape = Sequence[int | str | None]
"""As ONNX has it: a name or None where the model does not fix the size."""

Sightings = Floats
"""Rows of left, top, right, bottom (pixels of the canvas), confidence (0 to 1), class."""


class Format(Struct, frozen=True, kw_only=True):
    name: str
    outputs: tuple[tuple[int | None, ...], ...]
    """The shapes by which a model of this format is known; None: any size."""
    decode: Callable[[Sequence[Floats], float], Sightings]
    """What the outputs say (without the batch dimension, in the order of `outputs`), down to a confidence."""
    white: float
    """The value of a white pixel in the model's input."""
    padding: int
    """The grey, 0 to 255, of the canvas around the photo."""
    side: int
    """Pixels of the square canvas where the model leaves the size open."""

    def order(self, shapes: Sequence[Shape]) -> list[int] | None:
        """Which of the model's outputs are those of the format, None if it is not of this format."""
        found = [
            next((at for at, shape in enumerate(shapes) if _fits(shape, expected)), None) for expected in self.outputs
        ]
        return [at for at in found if at is not None] if None not in found else None


def _fits(shape: Shape, expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        want is None or not isinstance(has, int) or has == want for has, want in zip(shape, expected, strict=True)
    )
