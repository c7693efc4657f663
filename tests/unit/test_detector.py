"""The detector as the handler has it: ONNX files, real and made for the purpose."""

import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from services.worker.detector import DetectorError, load_detector
from services.worker.detectors.onnx import MOST, OnnxDetector
from tests.support.detector import PHOTOS, detector_path
from tests.support.onnx_models import TV, Array, Shape, centernet, save_echo, save_graph, save_model, yolo


def test_boxes_are_fractions_of_the_photo_not_of_the_canvas(tmp_path: Path) -> None:
    """A photo twice as wide as high lies in the middle half of the canvas."""
    detector = OnnxDetector(save_model(tmp_path / "m.onnx", centernet((8, 8, 0.9, (16, 8, 16, 8)))))
    (wide,) = detector.detect(Image.new("RGB", (200, 100)))
    assert wide.label == "tv"
    assert wide.confidence == pytest.approx(0.9)
    assert wide.box == pytest.approx((0.25, 0.25, 0.75, 0.75))
    (high,) = detector.detect(Image.new("RGB", (100, 200)))
    assert high.box == pytest.approx((0.0, 0.375, 1.0, 0.625))


def test_boxes_end_at_the_edge_and_what_lies_beyond_is_nothing(tmp_path: Path) -> None:
    beyond, across = (8, 1, 0.9, (2, 2, 2, 2)), (8, 4, 0.8, (99, 99, 4, 4))
    detector = OnnxDetector(save_model(tmp_path / "m.onnx", centernet(beyond, across)))
    (found,) = detector.detect(Image.new("RGB", (200, 100)))
    assert found.box == pytest.approx((0.0, 0.0, 36 / 64, 4 / 32))


def test_yolo_models_are_recognised(tmp_path: Path) -> None:
    detector = OnnxDetector(save_model(tmp_path / "own.onnx", yolo((32, 32, 16, 8))))
    assert detector.name == "YOLO (own.onnx)"
    (found,) = detector.detect(Image.new("RGB", (64, 64)))
    assert found.box == pytest.approx((24 / 64, 28 / 64, 40 / 64, 36 / 64))


def test_a_model_of_open_size_gets_its_formats_usual_one(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", yolo((320, 320, 64, 64)), taking=("batch", 3, "height", "width"))
    (found,) = OnnxDetector(path).detect(Image.new("RGB", (100, 100)))
    assert found.box == pytest.approx((0.45, 0.45, 0.55, 0.55))


@pytest.mark.parametrize(
    ("row", "shown"), [(32, {"centernet": 255.0, "yolo": 1.0}), (0, {"centernet": 0.0, "yolo": 114 / 255})]
)
def test_each_format_gets_the_white_and_the_padding_that_it_knows(
    tmp_path: Path, row: int, shown: dict[str, float]
) -> None:
    models = {
        "centernet": save_echo(tmp_path / "c.onnx", centernet((8, 8, 0.5, (8, 8, 8, 8))), {"heat": (0, TV, 8, 8)}, row),
        "yolo": save_echo(tmp_path / "y.onnx", yolo((32, 32, 8, 8), confidence=0.5), {"output0": (0, 4 + TV, 0)}, row),
    }
    for name, path in models.items():
        (found,) = OnnxDetector(path).detect(Image.new("RGB", (200, 100), "white"))
        assert found.confidence == pytest.approx(0.5 + shown[name] / 1000, abs=1e-4)


def test_what_a_model_sees_everywhere_is_cut_short(tmp_path: Path) -> None:
    boxes = [(x, y, 1.0, 1.0) for x in range(0, 64, 4) for y in range(0, 64, 4)]
    detector = OnnxDetector(save_model(tmp_path / "m.onnx", yolo(*boxes)))
    assert len(detector.detect(Image.new("RGB", (64, 64)))) == MOST < len(boxes)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"logits": np.zeros((1, 1000), dtype=np.float32)}, "[[1, 1000]]; CenterNet and YOLO models work"),
        ({"output0": np.zeros((1, 24, 10), dtype=np.float32)}, "in no format that we know"),  # trained on 20 classes
    ],
)
def test_other_models_are_refused(tmp_path: Path, outputs: dict[str, Array], said: str) -> None:
    with pytest.raises(DetectorError) as caught:
        OnnxDetector(save_model(tmp_path / "other.onnx", outputs))
    assert said in str(caught.value)


@pytest.mark.parametrize("taking", [(1, 1, 64, 64), (1, 64, 64, 3), (3, 64, 64)])
def test_models_of_other_inputs_are_refused(tmp_path: Path, taking: Shape) -> None:
    with pytest.raises(DetectorError, match="does not take one float32 image"):
        OnnxDetector(save_model(tmp_path / "other.onnx", yolo((0, 0, 0, 0)), taking=taking))


def test_a_model_that_fails_on_a_photo_says_so(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["image", "shape"], ["output0"])  # 3 x 64 x 64 numbers do not make 84 x 7
    path = save_graph(
        tmp_path / "liar.onnx",
        [node],
        {"shape": np.array([1, 84, 7])},
        {"output0": (1, 84, 7)},
        taking=(1, 3, "height", "width"),
    )
    with pytest.raises(DetectorError, match=r"the model YOLO \(liar.onnx\) failed on this photo"):
        OnnxDetector(path).detect(Image.new("RGB", (8, 8)))


def test_no_setting_no_detector() -> None:
    assert load_detector(None) is None


def test_errors_name_the_file_but_not_its_place(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no model")
    for path, said in ((tmp_path / "none.onnx", "there is no file none.onnx"), (broken, "broken.onnx is not an ONNX")):
        with pytest.raises(DetectorError, match=said) as caught:
            load_detector(path)
        assert str(tmp_path) not in str(caught.value)


def test_a_detector_that_arrives_later_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(DetectorError):
        load_detector(path)
    save_model(path, yolo((0, 0, 0, 0)))
    assert load_detector(path) is not None


def test_threads_share_one_detector(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", centernet((8, 8, 0.9, (8, 8, 8, 8))))
    start = threading.Barrier(8)
    found: list[tuple[object, tuple[float, ...]]] = []

    def work() -> None:
        start.wait()
        detector = load_detector(path)
        assert detector is not None
        for _ in range(20):
            (one,) = detector.detect(Image.new("RGB", (64, 64)))
        found.append((detector, one.box))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


# left, top, right, bottom by eye, in pixels of the photographs
BY_EYE = {
    "living_room.jpg": {"chair": (282, 354, 516, 580), "tv": (715, 205, 800, 343)},
    "kitchen_appliances.jpg": {
        "refrigerator": (98, 112, 208, 520),
        "microwave": (294, 177, 393, 233),
        "oven": (284, 290, 392, 417),
    },
    "kitchen_cooking.jpg": {"person": (217, 70, 471, 466)},
}


@pytest.mark.parametrize("name", BY_EYE)
@pytest.mark.parametrize("mirrored", [False, True])
def test_our_detector_finds_things_where_they_are(name: str, mirrored: bool) -> None:
    with Image.open(PHOTOS / name) as photo:
        image = photo.convert("RGB")
    width, height = image.size
    detector = OnnxDetector(detector_path())
    seen = detector.detect(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image)
    for label, (left, top, right, bottom) in BY_EYE[name].items():
        sides = (width - right, width - left) if mirrored else (left, right)
        by_eye = (sides[0] / width, top / height, sides[1] / width, bottom / height)
        assert max(overlap(one.box, by_eye) for one in seen if one.label == label) > 0.7, label


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


def test_a_street_is_full_of_cars_and_nothing_to_move() -> None:
    with Image.open(PHOTOS / "street.jpg") as photo:
        seen = {one.label for one in OnnxDetector(detector_path()).detect(photo.convert("RGB"))}
    assert seen == {"car", "person", "traffic light"}
