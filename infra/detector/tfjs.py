"""TensorFlow.js graph models, as far as convolutional networks use them."""

import json
from base64 import b64decode
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

_TYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4"), "int32": np.dtype("<i4")}


class Node(Struct, frozen=True):
    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]
    """Truths, texts, lists of texts and lists of integers; others are left out."""


class Graph(Struct, frozen=True):
    nodes: dict[str, Node]
    weights: dict[str, NDArray[Any]]
    """As they are stored: floats often as float16."""

    def needed_for(self, outputs: tuple[str, ...]) -> Iterator[Node]:
        """The nodes that lead to `outputs`, each after its inputs; weights are none of them."""
        done: set[str] = set()
        waiting = list(reversed(outputs))
        while waiting:
            name = waiting[-1]
            missing = [given for given in self.nodes[name].inputs if given not in self.weights and given not in done]
            if missing:
                waiting.extend(reversed(missing))
                continue
            waiting.pop()
            if name not in done:
                done.add(name)
                yield self.nodes[name]


def read_graph(model: bytes, weights: bytes) -> Graph:
    """`model` is the JSON file, `weights` the one binary file that belongs to it."""
    content = json.loads(model)
    nodes = (
        Node(node["name"], node["op"], tuple(node.get("input", ())), _attributes(node.get("attr", {})))
        for node in content["modelTopology"]["node"]
    )
    specs = [spec for group in content["weightsManifest"] for spec in group["weights"]]
    return Graph({node.name: node for node in nodes}, dict(_weights(specs, weights)))


def _weights(specs: list[dict[str, Any]], data: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    at = 0
    for spec in specs:
        stored = _TYPES[spec.get("quantization", spec)["dtype"]]
        count = prod(spec["shape"])
        yield spec["name"], np.frombuffer(data, stored, count, at).reshape(spec["shape"])
        at += count * stored.itemsize


def _attributes(raw: dict[str, Any]) -> dict[str, Any]:
    """Texts come in base64, integers as texts."""
    attributes: dict[str, Any] = {}
    for name, value in raw.items():
        if "b" in value:
            attributes[name] = bool(value["b"])
        elif "s" in value:
            attributes[name] = b64decode(value["s"]).decode()
        elif "s" in value.get("list", {}):
            attributes[name] = [b64decode(text).decode() for text in value["list"]["s"]]
        elif "i" in value.get("list", {}):
            attributes[name] = [int(number) for number in value["list"]["i"]]
    return attributes
