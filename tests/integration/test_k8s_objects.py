"""infra/k8s: every overlay, and the base with every component, is built and each object compared with its schema."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import kubernetes_validate
import msgspec
import pytest

from tests.support.manifests import COMPONENTS, OVERLAYS, Object, check_types, combine, name_of, overlay
from tests.support.needs import program
from tests.support.readers import install

VERSION = "1.37"
"""Of Kubernetes."""

OTHERS = {"gateway.networking.k8s.io", "keda.sh", "monitoring.coreos.com"}
"""Groups that are none of Kubernetes' own: an npm package has the types of each. Those are made from the same Go types
as the CRDs, and know neither their patterns nor their rules (CEL).
"""

ALTERNATIVES = [
    ["servers", "uploads-volume", "ingress-nginx"],
    ["servers", "uploads-volume", "gateway-api", "hpa", "keda", "monitoring", "https-egress", "tracing"],
    ["s3", "https-egress", "gateway-api", "monitoring"],
    ["s3", "ingress-nginx", "hpa", "keda", "tracing"],
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects") / "packages"
    return install(folder, Path(__file__).parent / "objects")


def group_of(each: Object) -> str:
    group, slash, _ = each["apiVersion"].partition("/")
    return group if slash else ""


def check(objects: Sequence[Object]) -> list[str]:
    """What is wrong with those of Kubernetes' own."""
    found = (complaint(msgspec.json.encode(each)) for each in objects if group_of(each) not in OTHERS)
    return [sentence for sentence in found if sentence]


@cache  # most objects are the same in all that is built
def complaint(encoded: bytes) -> str:
    """Empty if there is none."""
    each = msgspec.json.decode(encoded)
    try:
        kubernetes_validate.validate(each, VERSION, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"{name_of(each)}: {error}"
    return ""


def only_others(objects: Sequence[Object]) -> list[Object]:
    return [each for each in objects if group_of(each) in OTHERS]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_of_an_overlay_is_as_kubernetes_wants_it(name: str) -> None:
    assert check(overlay(name)) == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_base_can_be_built_with_each_component_alone(tmp_path: Path, component: str) -> None:
    assert check(combine(tmp_path / "one", [component])) == []


@pytest.mark.parametrize("components", ALTERNATIVES, ids=" ".join)
def test_components_go_together(tmp_path: Path, components: list[str]) -> None:
    assert check(combine(tmp_path / "several", components)) == []


def test_objects_of_others_have_the_types_of_their_projects(tmp_path: Path, packages: Path) -> None:
    objects = [each for name in OVERLAYS for each in only_others(overlay(name))]
    objects += only_others(combine(tmp_path / "several", ALTERNATIVES[1]))

    assert {group_of(each) for each in objects} == OTHERS
    assert check_types(program("node"), packages, objects) == []


def test_what_is_wrong_is_found(packages: Path) -> None:
    (scaler,) = (each for each in overlay("production") if name_of(each) == "ScaledObject headway-worker-default")
    (service,) = (each for each in overlay("production") if name_of(each) == "Service headway-api")
    typo = scaler | {"spec": scaler["spec"] | {"minReplicas": 1}}
    missing = scaler | {"spec": {key: value for key, value in scaler["spec"].items() if key != "triggers"}}

    missed, *others = check_types(program("node"), packages, [typo, missing])
    assert "must have required property triggers" in missed
    assert any("minReplicas" in problem for problem in others)
    assert check([service | {"spec": service["spec"] | {"port": 80}}])


def test_every_component_is_tried_with_others() -> None:
    assert {"away"} | {name for names in ALTERNATIVES for name in names} == set(COMPONENTS)
