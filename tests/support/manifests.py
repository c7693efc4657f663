"""infra/k8s as kustomize builds it, and what a pod of it would run with."""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.go_tools import KUSTOMIZE, go_tool

FOLDER = Path(__file__).parents[2] / "infra" / "k8s"
OVERLAYS = tuple(sorted(path.name for path in (FOLDER / "overlays").iterdir()))
COMPONENTS = tuple(sorted(path.name for path in (FOLDER / "components").iterdir()))
OURS = ("api", "stream", "worker")
"""Components that are a service of ours."""

CONTROLLERS = {"Deployment", "StatefulSet", "Job"}

Object = dict[str, Any]
Labels = Mapping[str, str]

_SIZES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "m": 0.001, "": 1}


def build(folder: Path) -> list[Object]:
    """The objects, as `kubectl apply --kustomize` would send them. Raises AssertionError with what kustomize says."""
    command = [str(go_tool(KUSTOMIZE)), "build", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"kustomize warns: {done.stderr}"
    return list(yaml.safe_load_all(done.stdout))


@cache
def overlay(name: str) -> tuple[Object, ...]:
    """Or `base`, without any."""
    return tuple(build(FOLDER / "base" if name == "base" else FOLDER / "overlays" / name))


def combine(folder: Path, components: Sequence[str]) -> list[Object]:
    """The base with some components, by a kustomization in `folder`, which has to be new."""
    folder.mkdir()
    named = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "headway",
        "resources": [_path(folder, "base")],
        "components": [_path(folder, f"components/{component}") for component in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(named))
    return build(folder)


def of_kind(objects: Iterable[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def name_of(each: Object) -> str:
    return f"{each['kind']} {each['metadata']['name']}"


def controllers(objects: Iterable[Object]) -> list[Object]:
    """What makes pods."""
    return of_kind(objects, *CONTROLLERS)


def pod_labels(controller: Object) -> Labels:
    labels: Labels = controller["spec"]["template"]["metadata"]["labels"]
    return labels


def component(controller: Object) -> str:
    return pod_labels(controller)["app.kubernetes.io/component"]


def pod_of(controller: Object) -> Object:
    """What its pods are."""
    pod: Object = controller["spec"]["template"]["spec"]
    return pod


def container_of(controller: Object) -> Object:
    (container,) = pod_of(controller)["containers"]
    found: Object = container
    return found


def ours(objects: Iterable[Object]) -> list[Object]:
    """The Deployments of our services."""
    return [each for each in of_kind(objects, "Deployment") if component(each) in OURS]


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """As Kubernetes understands a selector. An empty one selects everything."""
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions), "this knows nothing but `In`"
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def quantity(text: str | int) -> float:
    """`500m`, `2`, `1Gi`."""
    found = re.fullmatch(r"(\d+)(Ki|Mi|Gi|m|)", str(text))
    assert found, f"{text} is no quantity that this knows"
    return int(found[1]) * _SIZES[found[2]]


def given(objects: Iterable[Object], controller: Object) -> dict[str, str | None]:
    """The environment of its container; None: from a Secret. Of two with one name the last counts, and those of `env`
    before those of `envFrom`, as in Kubernetes.
    """
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
    container = container_of(controller)
    environment: dict[str, str | None] = {}
    for source in container.get("envFrom", []):
        environment |= maps[source["configMapRef"]["name"]]
    environment |= {each["name"]: each.get("value") for each in container.get("env", [])}
    return environment


def secrets(controller: Object) -> set[tuple[str, str, bool]]:
    """(Secret, key, whether it may be left out) of each that it refers to."""
    references = [each.get("valueFrom", {}).get("secretKeyRef") for each in container_of(controller).get("env", [])]
    return {(found["name"], found["key"], found.get("optional", False)) for found in references if found}


def _path(folder: Path, name: str) -> str:
    # kustomize takes no absolute ones
    return os.path.relpath(FOLDER / name, folder)
