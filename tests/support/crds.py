"""Objects of KEDA, the Gateway API and the Prometheus operator against the schemas of their CRDs, as strictly as an API
server takes them: types, values, patterns, what has to be there, and no field that is not named. Not their rules (CEL).
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import jsonschema_rs
import yaml

from tests.support.go_tools import ENVOY_GATEWAY, GATEWAY_API, KEDA, PROMETHEUS_OPERATOR, go_files
from tests.support.manifests import Object, name_of

GROUPS = {
    "gateway.envoyproxy.io": ENVOY_GATEWAY,
    "gateway.networking.k8s.io": GATEWAY_API,
    "keda.sh": KEDA,
    "monitoring.coreos.com": PROMETHEUS_OPERATOR,
}

Schema = dict[str, Any]


def group_of(each: Object) -> str:
    """Empty for what has always been there (`v1`)."""
    group, slash, _ = each["apiVersion"].partition("/")
    return group if slash else ""


def problems(objects: Iterable[Object]) -> list[str]:
    """What is wrong with objects of GROUPS."""
    return [
        f"{name_of(each)}: {'/'.join(map(str, error.instance_path))}: {error.message}"
        for each in objects
        for error in _validator(each["apiVersion"], each["kind"]).iter_errors(each)
    ]


@cache
def _validator(api_version: str, kind: str) -> jsonschema_rs.Draft4Validator:
    group, _, version = api_version.partition("/")
    file = go_files(GROUPS[group]) / f"{group}_{_plural(kind.lower())}.yaml"
    crd = yaml.load(file.read_text(), yaml.CSafeLoader)  # they are large
    (schema,) = (
        each["schema"]["openAPIV3Schema"]
        for each in crd["spec"]["versions"]
        if each["name"] == version and each["served"]
    )
    # an API server knows these of every object, and the CRD says no more of them
    known = {name: {"x-kubernetes-preserve-unknown-fields": True} for name in ("apiVersion", "kind", "metadata")}
    named = {name: each for name, each in schema["properties"].items() if name != "status"}
    return jsonschema_rs.Draft4Validator(_closed({**schema, "properties": named | known}))


def _plural(kind: str) -> str:
    return f"{kind[:-1]}ies" if kind.endswith(("cy", "xy")) else f"{kind}s"  # `gateways`, but `policies` and `proxies`


def _closed(schema: Schema) -> Schema:
    """As JSON Schema has it. In an API server an object has no fields but those that are named, unless it says so."""
    closed = dict(schema)
    if "properties" in schema:
        closed["properties"] = {name: _closed(each) for name, each in schema["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            closed[inner] = _closed(schema[inner])
    if schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if schema.get("pattern", "").startswith("^(?i)"):  # as Go has it, where JSON Schema goes by JavaScript
        closed["pattern"] = f"(?i:^{schema['pattern'].removeprefix('^(?i)')})"
    return closed
