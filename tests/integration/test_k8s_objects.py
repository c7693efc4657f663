"""infra/k8s: every overlay, and the base with every component, is built and each object compared with its schema."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest

from tests.support.crds import GROUPS, group_of, problems
from tests.support.manifests import COMPONENTS, OVERLAYS, Object, combine, name_of, overlay

VERSION = "1.37"
"""Of Kubernetes."""

ALTERNATIVES = [
    ["servers", "uploads-volume", "ingress-nginx", "rabbitmq"],
    ["servers", "uploads-volume", "gateway-api", "hpa", "keda", "monitoring", "https-egress", "tracing"],
    ["s3", "https-egress", "envoy-gateway", "monitoring", "rabbitmq"],
    ["s3", "ingress-nginx", "hpa", "keda", "tracing"],
]


def check(objects: Sequence[Object]) -> list[str]:
    """What is wrong with them."""
    found = (complaint(msgspec.json.encode(each)) for each in objects if group_of(each) not in GROUPS)
    return [sentence for sentence in found if sentence] + problems(of_others(objects))


@cache  # most objects are the same in all that is built
def complaint(encoded: bytes) -> str:
    """Empty if there is none."""
    each = msgspec.json.decode(encoded)
    try:
        kubernetes_validate.validate(each, VERSION, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"{name_of(each)}: {error}"
    return ""


def of_others(objects: Sequence[Object]) -> list[Object]:
    """Those that Kubernetes itself does not know."""
    return [each for each in objects if group_of(each) in GROUPS]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_of_an_overlay_is_as_kubernetes_wants_it(name: str) -> None:
    assert check(overlay(name)) == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_base_can_be_built_with_each_component_alone(tmp_path: Path, component: str) -> None:
    assert check(combine(tmp_path / "one", [component])) == []


@pytest.mark.parametrize("components", ALTERNATIVES, ids=" ".join)
def test_components_go_together(tmp_path: Path, components: list[str]) -> None:
    assert check(combine(tmp_path / "several", components)) == []


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Object]:
    """One of each kind of others at least, by kind and name."""
    gateway = combine(tmp_path_factory.mktemp("gateway") / "one", ["envoy-gateway"])
    return {name_of(each): each for each in [*overlay("production"), *gateway]}


def test_the_crds_of_others_describe_objects_of_ours(everybody: dict[str, Object]) -> None:
    assert {group_of(each) for each in of_others([*everybody.values()])} == GROUPS.keys()


def broken(each: Object, path: str, value: object) -> Object:
    """With another value at `spec.…`; None: without it."""
    copy: Object = msgspec.json.decode(msgspec.json.encode(each))
    *folders, last = path.split(".")
    inner: Any = copy["spec"]
    for name in folders:
        inner = inner[int(name)] if name.isdigit() else inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return copy


@pytest.mark.parametrize(
    ("name", "path", "value", "problem"),
    [
        ("EnvoyProxy headway", "telemetry.accessLog.settings.0.format.type", "Json", "is not one of"),
        ("BackendTrafficPolicy headway", "responseOverride.0.response.headers", [], "'headers' was unexpected"),
        (
            "BackendTrafficPolicy headway-events",
            "rateLimit.local.rules.0.limit.requests",
            -1,
            "is less than the minimum",
        ),
        ("ScaledObject headway-worker-default", "minReplicas", 1, "'minReplicas' was unexpected"),
        ("ScaledObject headway-worker-default", "triggers", None, '"triggers" is a required property'),
        ("ScaledObject headway-worker-default", "pollingInterval", "15", 'is not of type "integer"'),
        ("ScaledObject headway-worker-default", "triggers.0.metadata.targetQueryValue", 8, 'is not of type "string"'),
        ("ScaledObject headway-worker-default", "fallback.behavior", "stay", "is not one of"),
        ("TriggerAuthentication headway-scaler", "secretTargetRef.0.secret", "x", "'secret' was unexpected"),
        ("PodMonitor headway", "podMetricsEndpoints.0.interval", "15 s", "does not match"),
        ("PodMonitor headway", "podMetricsEndpoints.0.relabelings.0.action", "rename", "is not one of"),
        ("PrometheusRule headway", "groups.0.rules.0.for", "soon", "does not match"),
        ("Gateway headway", "listeners.0.hostname", "progress example", "does not match"),
        ("Gateway headway", "listeners.1.port", 65536, "is greater than the maximum"),
        ("HTTPRoute headway", "rules.0.timeouts.request", "never", "does not match"),
        ("HTTPRoute headway", "rules.0.matches.0.path.type", "Regex", "is not one of"),
        ("HTTPRoute headway", "rules.0.backendRefs.0.portname", "http", "'portname' was unexpected"),
    ],
)
def test_what_a_crd_does_not_allow_is_found(
    everybody: dict[str, Object], name: str, path: str, value: object, problem: str
) -> None:
    (found,) = problems([broken(everybody[name], path, value)])
    assert name in found
    assert problem in found


def test_what_kubernetes_does_not_allow_is_found(everybody: dict[str, Object]) -> None:
    assert check([broken(everybody["Service headway-api"], "port", 80)])


def test_every_component_is_tried_with_others() -> None:
    assert {"away"} | {name for names in ALTERNATIVES for name in names} == set(COMPONENTS)
