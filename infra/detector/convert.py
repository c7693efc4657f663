"""From a TensorFlow.js graph to ONNX.

The former keeps images as height, width, channels, the latter as channels, height, width; within a convolutional
network that changes weights and axes and nothing else.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from msgspec import Struct
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from infra.detector.errors import BuildError
from infra.detector.tfjs import Graph, Node

OPSET = 18
IR_VERSION = 8
SMALL = 16
"""Numbers up to which a weight is stored as float32: half of so little is not worth a node of the graph."""

Shape = tuple[int, ...]


class _Draft(Struct, frozen=True):
    graph: Graph
    nodes: list[onnx.NodeProto]
    stored: dict[str, onnx.TensorProto]

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Large ones stay float16, as the source has them: half the file, and engines do the cast when they load it."""
        if name in self.stored:
            return name
        plain = np.ascontiguousarray(value)
        if plain.dtype == np.float16 and plain.size > SMALL:
            self.stored[name] = numpy_helper.from_array(plain, f"{name}/half")
            self.add("Cast", [f"{name}/half"], name, to=onnx.TensorProto.FLOAT)
        else:
            self.stored[name] = numpy_helper.from_array(plain.astype(np.float32), name)
        return name

    def value(self, name: str) -> str:
        """An input of an element-wise operation: another node's output, or a number."""
        weight = self.graph.weights.get(name)
        if weight is None:
            return name
        if weight.ndim:
            raise BuildError(f"{name} is more than one number, and its axes would have to be moved")
        return self.constant(name, weight)


def convert(
    graph: Graph, name: str, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], notes: dict[str, str]
) -> onnx.ModelProto:
    """The part of `graph` that leads to `outputs`; shapes are ONNX's. Raises BuildError for what is not known here."""
    draft = _Draft(graph, [], {})
    for node in graph.needed_for(tuple(outputs)):
        translate = OPERATIONS.get(node.op)
        if translate is None:
            raise BuildError(f"the model has an operation that is not known here: {node.op} ({node.name})")
        translate(draft, node)
    body = helper.make_graph(
        draft.nodes, name, _declared(inputs), _declared(outputs), initializer=list(draft.stored.values())
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, notes)
    onnx.checker.check_model(model, full_check=True)
    return model


def _declared(shapes: Mapping[str, Shape]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def _nothing(draft: _Draft, node: Node) -> None:
    """The graph's input is declared, not computed."""


def _convolution(draft: _Draft, node: Node) -> None:
    image, kernel, *bias = node.inputs
    weights = draft.graph.weights[kernel]
    height, width, channels, several = weights.shape
    groups = 1
    if "Depthwise" in node.op:  # height, width, channels, outputs of each channel
        groups = channels
        weights = weights.transpose(2, 3, 0, 1).reshape(channels * several, 1, height, width)
    else:  # height, width, inputs, outputs
        weights = weights.transpose(3, 2, 0, 1)
    follows = [step for step in node.attributes.get("fused_ops", ()) if step != "BiasAdd"]
    output = f"{node.name}/linear" if follows else node.name
    draft.add(
        "Conv",
        [image, draft.constant(kernel, weights), *(draft.constant(each, draft.graph.weights[each]) for each in bias)],
        output,
        group=groups,
        strides=node.attributes["strides"][1:3],
        dilations=node.attributes["dilations"][1:3],
        # the surplus pixel goes to the bottom right, as in TensorFlow
        auto_pad={"SAME": "SAME_UPPER", "VALID": "VALID"}[node.attributes["padding"]],
    )
    if follows == ["Relu"]:
        draft.add("Relu", [output], node.name)
    elif follows:
        raise BuildError(f"{node.name} goes on with {', '.join(follows)}, which is not known here")


def _same(draft: _Draft, node: Node) -> None:
    draft.add(node.op, [draft.value(name) for name in node.inputs], node.name)


def _relu6(draft: _Draft, node: Node) -> None:
    limits = [draft.constant("zero", np.array(0.0)), draft.constant("six", np.array(6.0))]
    draft.add("Clip", [node.inputs[0], *limits], node.name)


def _mean(draft: _Draft, node: Node) -> None:
    image, axes = node.inputs
    if draft.graph.weights[axes].tolist() != [1, 2] or not node.attributes.get("keep_dims"):
        raise BuildError(f"{node.name} is a mean of something else than height and width")
    draft.add("GlobalAveragePool", [image], node.name)


def _concat(draft: _Draft, node: Node) -> None:
    *parts, axis = node.inputs
    if draft.graph.weights[axis].item() not in (3, -1):
        raise BuildError(f"{node.name} joins something else than channels")
    draft.add("Concat", parts, node.name, axis=1)


def _resize(draft: _Draft, node: Node) -> None:
    if node.attributes.get("align_corners") or node.attributes.get("half_pixel_centers"):
        raise BuildError(f"{node.name} places its pixels in a way that is not known here")
    image, size = node.inputs
    draft.stored[size] = numpy_helper.from_array(draft.graph.weights[size].astype(np.int64), size)
    draft.add(
        "Resize",
        [image, "", "", size],
        node.name,
        axes=[2, 3],
        mode="linear",
        coordinate_transformation_mode="asymmetric",
    )


OPERATIONS: dict[str, Callable[[_Draft, Node], None]] = {
    "Placeholder": _nothing,
    "Conv2D": _convolution,
    "_FusedConv2D": _convolution,
    "DepthwiseConv2dNative": _convolution,
    "FusedDepthwiseConv2dNative": _convolution,
    "Add": _same,
    "Mul": _same,
    "Relu": _same,
    "Sigmoid": _same,
    "Identity": _same,
    "Relu6": _relu6,
    "Mean": _mean,
    "ConcatV2": _concat,
    "ResizeBilinear": _resize,
}
