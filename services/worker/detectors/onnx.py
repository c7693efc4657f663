"""A detector that runs an ONNX model on the processor."""

from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from services.worker.detectors import centernet, yolo
from services.worker.detectors.coco import LABELS
from services.worker.detectors.distinct import distinct
from services.worker.detectors.format import Floats, Format
from services.worker.detectors.sight import Detection, DetectorError

FORMATS = (centernet.FORMAT, yolo.FORMAT)
LEAST = 0.4
"""Confidence below which nothing is reported: of the household things that our model sees on our sample photos between
0.3 and 0.4, most are something else (docs/photos.md)."""
MOST = 100
"""Objects on one photo: the result has to stay small whatever a strange photo or model yields."""
ERRORS_ONLY = 3


class OnnxDetector:
    """Safe to share between threads. Raises DetectorError, with a sentence, for a model that it cannot use."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DetectorError(f"there is no file {path.name} where HEADWAY_DETECTOR points")
        options = onnxruntime.SessionOptions()
        # as many photos at once as the worker has threads: a photo that took more cores would take them from the others
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no base of their own
            raise DetectorError(f"{path.name} is not an ONNX model that can be loaded") from error
        self._format, self._outputs = self._recognise(path)
        self._input, self._width, self._height = self._canvas(path)
        self.name = f"{self._format.name} ({path.name})"

    def detect(self, image: Image.Image) -> list[Detection]:
        """`image` is RGB. The surest first."""
        scale = min(self._width / image.width, self._height / image.height)
        width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        left, top = (self._width - width) // 2, (self._height - height) // 2
        canvas = Image.new("RGB", (self._width, self._height), (self._format.padding,) * 3)
        canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
        pixels = np.asarray(canvas, dtype=np.float32).transpose(2, 0, 1)[None] * np.float32(self._format.white / 255)
        try:
            outputs = self._session.run(self._outputs, {self._input: pixels})
            sightings = self._format.decode([output[0] for output in outputs], LEAST)
        except Exception as error:  # a model that promised other shapes than it yields, or too little memory
            raise DetectorError(f"the model {self.name} failed on this photo: {error}") from error
        offset, size = np.array([left, top] * 2), np.array([width, height] * 2)
        sightings[:, :4] = ((sightings[:, :4] - offset) / size).clip(0, 1)
        visible = (sightings[:, 2] > sightings[:, 0]) & (sightings[:, 3] > sightings[:, 1])
        return [_detection(row) for row in distinct(sightings[visible], MOST)]

    def _recognise(self, path: Path) -> tuple[Format, list[str]]:
        outputs = self._session.get_outputs()
        shapes = [output.shape for output in outputs]
        for known in FORMATS:
            if (order := known.order(shapes)) is not None:
                return known, [outputs[at].name for at in order]
        names = " and ".join(known.name for known in FORMATS)
        raise DetectorError(f"{path.name} is in no format that we know: its outputs are {shapes}; {names} models work")

    def _canvas(self, path: Path) -> tuple[str, int, int]:
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(shape) != 4 or shape[1] != 3:  # noqa: PLR2004
            raise DetectorError(f"{path.name} does not take one float32 image of 1 x 3 x height x width")
        height, width = (size if isinstance(size, int) else self._format.side for size in shape[2:])
        return inputs[0].name, width, height


def _detection(row: Floats) -> Detection:
    left, top, right, bottom, confidence, label = row.tolist()
    return Detection(LABELS[int(label)], confidence, (left, top, right, bottom))
