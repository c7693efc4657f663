"""From TensorFlow.js to ONNX: each operation against the same worked out by hand."""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from infra.detector.convert import convert
from infra.detector.errors import BuildError
from infra.detector.tfjs import Graph, Node, read_graph

Array = NDArray[Any]
RANDOM = np.random.default_rng(7)


def tfjs_files(
    nodes: Iterable[dict[str, Any]], weights: Mapping[str, Array], *, halved: tuple[str, ...] = ()
) -> tuple[bytes, bytes]:
    specs = []
    data = b""
    for name, value in weights.items():
        spec: dict[str, Any] = {"name": name, "shape": list(value.shape), "dtype": str(value.dtype)}
        if name in halved:
            spec["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
        data += (value.astype(np.float16) if name in halved else value).tobytes()
        specs.append(spec)
    model = {"modelTopology": {"node": list(nodes)}, "weightsManifest": [{"paths": ["w.bin"], "weights": specs}]}
    return json.dumps(model).encode(), data


def text(value: str) -> str:
    return b64encode(value.encode()).decode()


def test_weights_are_read_as_they_are_stored() -> None:
    weights = {
        "half": np.array([[0.5, -2.0, 3.25]], dtype=np.float32),
        "number": np.array(6.0, dtype=np.float32),
        "axes": np.array([1, 2], dtype=np.int32),
        "last": np.array([0.1], dtype=np.float32),
    }
    graph = read_graph(*tfjs_files([], weights, halved=("half", "number")))
    for name, value in weights.items():
        assert graph.weights[name].tolist() == value.tolist()
    assert {name: str(value.dtype) for name, value in graph.weights.items()} == {
        "half": "float16",
        "number": "float16",
        "axes": "int32",
        "last": "float32",
    }


def test_attributes_are_decoded() -> None:
    attributes = {
        "padding": {"s": text("SAME")},
        "fused_ops": {"list": {"s": [text("BiasAdd"), text("Relu")]}},
        "strides": {"list": {"i": ["1", "2", "2", "1"]}},
        "keep_dims": {"b": True},
        "T": {"type": "DT_FLOAT"},
        "explicit_paddings": {"list": {}},
    }
    graph = read_graph(*tfjs_files([{"name": "n", "op": "Conv2D", "input": ["x", "w"], "attr": attributes}], {}))
    assert graph.nodes["n"] == Node(
        "n",
        "Conv2D",
        ("x", "w"),
        {"padding": "SAME", "fused_ops": ["BiasAdd", "Relu"], "strides": [1, 2, 2, 1], "keep_dims": True},
    )


def test_only_what_is_needed_comes_each_after_its_inputs() -> None:
    nodes = [
        Node("out", "Add", ("b", "a"), {}),
        Node("b", "Relu", ("a",), {}),
        Node("useless", "Relu", ("x",), {}),
        Node("a", "Mul", ("x", "w"), {}),
        Node("x", "Placeholder", (), {}),
    ]
    graph = Graph({node.name: node for node in nodes}, {"w": np.array(1.0)})
    assert [node.name for node in graph.needed_for(("out", "a"))] == ["x", "a", "b", "out"]


# Images are height, width, channels here, as in TensorFlow.
IMAGE = RANDOM.normal(size=(6, 5, 3)).astype(np.float32)
STILL = {"strides": [1, 1, 1, 1], "dilations": [1, 1, 1, 1], "padding": "SAME"}


def converted(nodes: Iterable[Node], weights: Mapping[str, Array], shape: tuple[int, int, int]) -> onnx.ModelProto:
    """The last node's output has `shape` (height, width, channels)."""
    listed = [Node("x", "Placeholder", (), {}), *nodes]
    graph = Graph({node.name: node for node in listed}, dict(weights))
    height, width, channels = shape
    return convert(graph, "g", {"x": (1, 3, 6, 5)}, {listed[-1].name: (1, channels, height, width)}, {"note": "x"})


def run(nodes: Iterable[Node], weights: Mapping[str, Array], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    model = converted(nodes, weights, shape)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": IMAGE.transpose(2, 0, 1)[None]})
    answer: NDArray[np.float32] = output[0].transpose(1, 2, 0)
    assert answer.shape == shape
    return answer


def convolved(kernel: Array, stride: int, *, same: bool, depthwise: bool) -> NDArray[np.float64]:
    """As TensorFlow defines it; `kernel` is height, width, inputs, outputs (of each input, when depthwise)."""
    rows, columns = kernel.shape[:2]
    pads = [
        max((-(-size // stride) - 1) * stride + window - size, 0) if same else 0
        for size, window in zip(IMAGE.shape[:2], (rows, columns), strict=True)
    ]
    padded = np.pad(IMAGE, [(pad // 2, pad - pad // 2) for pad in pads] + [(0, 0)])
    spots = [
        range(0, size - window + 1, stride) for size, window in zip(padded.shape[:2], (rows, columns), strict=True)
    ]
    rule = "hwc,hwcm->cm" if depthwise else "hwc,hwcm->m"
    return np.array(
        [[np.einsum(rule, padded[y : y + rows, x : x + columns], kernel).ravel() for x in spots[1]] for y in spots[0]]
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op", ["Conv2D", "DepthwiseConv2dNative"])
def test_convolutions(op: str, stride: int, padding: str) -> None:
    kernel = RANDOM.normal(size=(3, 3, 3, 2)).astype(np.float32)
    expected = convolved(kernel, stride, same=padding == "SAME", depthwise="Depthwise" in op)
    node = Node("y", op, ("x", "k"), STILL | {"strides": [1, stride, stride, 1], "padding": padding})
    height, width, channels = expected.shape
    assert run([node], {"k": kernel}, (height, width, channels)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("follows", [[], ["Relu"]])
@pytest.mark.parametrize("op", ["_FusedConv2D", "FusedDepthwiseConv2dNative"])
def test_fused_convolutions(op: str, follows: list[str]) -> None:
    depthwise = "Depthwise" in op
    kernel = RANDOM.normal(size=(3, 3, 3, 2)).astype(np.float16)
    bias = np.linspace(-3, 3, 6 if depthwise else 2).astype(np.float16)
    expected = convolved(kernel.astype(np.float64), 1, same=True, depthwise=depthwise) + bias
    node = Node("y", op, ("x", "k", "b"), STILL | {"fused_ops": ["BiasAdd", *follows]})
    answer = run([node], {"k": kernel, "b": bias}, (6, 5, len(bias)))
    assert answer == pytest.approx(np.maximum(expected, 0) if follows else expected, abs=1e-3)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("Relu", np.maximum(IMAGE, 0)),
        ("Sigmoid", 1 / (1 + np.exp(-IMAGE))),
        ("Identity", IMAGE),
    ],
)
def test_element_by_element(op: str, expected: Array) -> None:
    assert run([Node("y", op, ("x",), {})], {}, (6, 5, 3)) == pytest.approx(expected, abs=1e-5)


def test_relu6_ends_at_six() -> None:
    nodes = [Node("m", "Mul", ("x", "ten"), {}), Node("y", "Relu6", ("m",), {})]
    assert run(nodes, {"ten": np.array(10.0)}, (6, 5, 3)) == pytest.approx(np.clip(10 * IMAGE, 0, 6), abs=1e-5)


def test_numbers_are_added_and_multiplied() -> None:
    nodes = [Node("m", "Mul", ("two", "x"), {}), Node("y", "Add", ("m", "x"), {})]
    assert run(nodes, {"two": np.array(2.0, dtype=np.float16)}, (6, 5, 3)) == pytest.approx(3 * IMAGE, abs=1e-5)


def test_a_mean_over_the_image_meets_it_again() -> None:
    nodes = [Node("m", "Mean", ("x", "axes"), {"keep_dims": True}), Node("y", "Mul", ("x", "m"), {})]
    answer = run(nodes, {"axes": np.array([1, 2])}, (6, 5, 3))
    assert answer == pytest.approx(IMAGE * IMAGE.mean(axis=(0, 1)), abs=1e-5)


def test_channels_are_joined() -> None:
    nodes = [Node("r", "Relu", ("x",), {}), Node("y", "ConcatV2", ("x", "r", "axis"), {})]
    answer = run(nodes, {"axis": np.array(3)}, (6, 5, 6))
    assert answer == pytest.approx(np.concatenate([IMAGE, np.maximum(IMAGE, 0)], axis=2))


def test_images_are_enlarged_from_the_corner() -> None:
    answer = run([Node("y", "ResizeBilinear", ("x", "size"), {})], {"size": np.array([12, 10])}, (12, 10, 3))
    assert answer[::2, ::2] == pytest.approx(IMAGE, abs=1e-5)
    assert answer[1:-1:2, ::2] == pytest.approx((IMAGE[:-1] + IMAGE[1:]) / 2, abs=1e-5)
    assert answer[-1, ::2] == pytest.approx(IMAGE[-1], abs=1e-5)


@pytest.mark.parametrize(
    ("node", "weights", "said"),
    [
        (Node("y", "Softmax", ("x",), {}), {}, "not known here: Softmax"),
        (Node("y", "Mean", ("x", "axes"), {"keep_dims": True}), {"axes": np.array([3])}, "something else than height"),
        (Node("y", "Mean", ("x", "axes"), {"keep_dims": False}), {"axes": np.array([1, 2])}, "something else than"),
        (Node("y", "ConcatV2", ("x", "x", "axis"), {}), {"axis": np.array(1)}, "something else than channels"),
        (Node("y", "Add", ("x", "w"), {}), {"w": np.ones(3)}, "more than one number"),
        (
            Node("y", "ResizeBilinear", ("x", "size"), {"half_pixel_centers": True}),
            {"size": np.array([12, 10])},
            "places its pixels",
        ),
        (
            Node("y", "_FusedConv2D", ("x", "k"), STILL | {"fused_ops": ["Elu"]}),
            {"k": np.ones((1, 1, 3, 3))},
            "goes on with Elu",
        ),
    ],
)
def test_what_would_be_converted_wrongly_is_refused(node: Node, weights: dict[str, Array], said: str) -> None:
    with pytest.raises(BuildError, match=said):
        converted([node], weights, (6, 5, 3))


def test_large_weights_stay_halves_in_the_file() -> None:
    kernel = RANDOM.normal(size=(3, 3, 3, 100)).astype(np.float16)
    model = converted([Node("y", "Conv2D", ("x", "k"), STILL)], {"k": kernel}, (6, 5, 100))
    assert kernel.nbytes < len(model.SerializeToString()) < 1.2 * kernel.nbytes
