"""Small ONNX models that answer what a test wants."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from services.worker.detectors.coco import LABELS

Array = NDArray[np.float32]
Shape = tuple[int | str, ...]
TV = LABELS.index("tv")
SQUARE: Shape = (1, 3, 64, 64)


def save_graph(
    path: Path,
    nodes: Sequence[NodeProto],
    constants: Mapping[str, NDArray[Any]],
    outputs: Mapping[str, Shape],
    taking: Shape = SQUARE,
) -> Path:
    """The input is called `image`."""
    graph = helper.make_graph(
        nodes,
        "made for a test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, taking)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def save_model(path: Path, outputs: Mapping[str, Array], *, taking: Shape = SQUARE) -> Path:
    """Answers `outputs`, whatever it is shown."""
    nodes = [helper.make_node("Identity", [f"{name}/given"], [name]) for name in outputs]
    constants = {f"{name}/given": value for name, value in outputs.items()}
    return save_graph(path, nodes, constants, {name: value.shape for name, value in outputs.items()}, taking)


def save_echo(path: Path, outputs: Mapping[str, Array], at: Mapping[str, tuple[int, ...]], row: int) -> Path:
    """Answers `outputs`, of which the number `at` is raised by a thousandth of what is shown in the middle of `row`."""
    constants: dict[str, NDArray[Any]] = {
        "from": np.array([0, row, 32]),
        "to": np.array([1, row + 1, 33]),
        "axes": np.array([1, 2, 3]),
        "one": np.array([1]),
    }
    nodes = [
        helper.make_node("Slice", ["image", "from", "to", "axes"], ["pixel"]),
        helper.make_node("Reshape", ["pixel", "one"], ["value"]),
    ]
    for name, value in outputs.items():
        weight = np.zeros_like(value)
        if name in at:
            weight[at[name]] = 0.001
        constants |= {f"{name}/given": value, f"{name}/weight": weight}
        nodes += [
            helper.make_node("Mul", [f"{name}/weight", "value"], [f"{name}/more"]),
            helper.make_node("Add", [f"{name}/given", f"{name}/more"], [name]),
        ]
    return save_graph(path, nodes, constants, {name: value.shape for name, value in outputs.items()})


def centernet(*tvs: tuple[int, int, float, tuple[float, ...]]) -> dict[str, Array]:
    """Televisions at (x, y), in points of the 16 x 16 map of a 64 x 64 canvas, with confidence and edges."""
    heat, edges = np.zeros((1, 80, 16, 16), dtype=np.float32), np.zeros((1, 4, 16, 16), dtype=np.float32)
    for x, y, confidence, distances in tvs:
        heat[0, TV, y, x] = confidence
        edges[0, :, y, x] = distances
    return {"edges": edges, "heat": heat}  # in which order is a model's own affair


def yolo(*tvs: tuple[float, ...], confidence: float = 0.75) -> dict[str, Array]:
    """Televisions with boxes of centre and size in pixels of the canvas, as the first candidates of some."""
    output = np.zeros((1, 84, len(tvs) + 2), dtype=np.float32)
    for at, box in enumerate(tvs):
        output[0, :4, at] = box
        output[0, 4 + TV, at] = confidence
    return {"output0": output}
