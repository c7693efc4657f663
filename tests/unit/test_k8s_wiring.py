"""infra/k8s: what refers to what. A schema sees none of it, and a cluster says nothing when it fits nothing."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from shared.settings import Settings
from tests.support.documents import OPERATIONS
from tests.support.ingress import controller_options, options_of
from tests.support.manifests import (
    FOLDER,
    OVERLAYS,
    Object,
    combine,
    component,
    container_of,
    controllers,
    given,
    name_of,
    of_kind,
    ours,
    overlay,
    pod_labels,
    pod_of,
    secrets,
    selects,
)
from tests.support.ticketed import ID, opened_by_tickets

by_overlay = pytest.mark.parametrize("name", OVERLAYS)

DESCRIBED = OPERATIONS.keys("Metrics")
"""Metrics that there are, as another test knows."""

SERVERS = {"postgres", "redis"}
DEFAULTS = Settings(database_url="", redis_url="", ticket_key="")
STARTS = {"api", "stream", "worker", "migrate"}
"""Who needs a name resolved, and PostgreSQL."""


SOLVER = {"acme.cert-manager.io/http01-solver": "true"}
"""Labels of cert-manager's pods, which come and go in our namespace and listen at 8089."""


def served(objects: tuple[Object, ...], service: str) -> list[Object]:
    (found,) = (each for each in of_kind(objects, "Service") if each["metadata"]["name"] == service)
    return [
        each for each in controllers(objects) if selects({"matchLabels": found["spec"]["selector"]}, pod_labels(each))
    ]


def backends(ingress: Object) -> Iterator[tuple[str, str]]:
    """(path, Service) in order."""
    (rule,) = ingress["spec"]["rules"]
    for path in rule["http"]["paths"]:
        assert path["backend"]["service"]["port"] == {"name": "http"}
        yield path["path"], path["backend"]["service"]["name"]


def policies(objects: tuple[Object, ...], labels: dict[str, str], direction: str) -> list[Object]:
    """What lets pods with these labels in or out."""
    return [
        each
        for each in of_kind(objects, "NetworkPolicy")
        if selects(each["spec"]["podSelector"], labels) and direction in each["spec"]
    ]


@by_overlay
def test_all_is_in_one_namespace_with_labels(name: str) -> None:
    (namespace,) = of_kind(overlay(name), "Namespace")
    for each in overlay(name):
        if each["kind"] not in {"Namespace", "ConfigMap"}:
            assert each["metadata"]["namespace"] == namespace["metadata"]["name"], name_of(each)
            assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "headway", name_of(each)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@by_overlay
def test_what_makes_pods_selects_just_these(name: str) -> None:
    found = [each for each in controllers(overlay(name)) if each["kind"] != "Job"]
    for each in found:
        chosen = [other for other in controllers(overlay(name)) if selects(each["spec"]["selector"], pod_labels(other))]
        assert chosen == [each], name_of(each)


@by_overlay
def test_every_service_has_pods_with_its_ports(name: str) -> None:
    for each in of_kind(overlay(name), "Service"):
        pods = served(overlay(name), each["metadata"]["name"])
        assert len(pods) == 1, name_of(each)
        named = {port["name"] for port in container_of(pods[0])["ports"]}
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= named, name_of(each)


@by_overlay
def test_a_pod_that_is_to_stay_has_one_budget_that_lets_it_go(name: str) -> None:
    budgets = of_kind(overlay(name), "PodDisruptionBudget")
    for each in of_kind(overlay(name), "Deployment"):
        (budget,) = (one for one in budgets if selects(one["spec"]["selector"], pod_labels(each)))
        # of a single replica, too
        assert budget["spec"]["maxUnavailable"] == 1, name_of(budget)
        assert "minAvailable" not in budget["spec"]
    assert len(budgets) == len(of_kind(overlay(name), "Deployment"))


@by_overlay
def test_paths_of_streams_lead_to_stream_and_others_to_api(name: str) -> None:
    paths = [path for each in of_kind(overlay(name), "Ingress") for path in backends(each)]
    # ingress-nginx takes the longest first
    paths.sort(key=lambda path: len(path[0]), reverse=True)
    services = {each["metadata"]["name"] for each in of_kind(overlay(name), "Service")}
    assert {service for _, service in paths} <= services

    def to(address: str) -> str:
        return next(service for path, service in paths if re.match(path, address, re.IGNORECASE))

    batch = "/api/batches/0199f2a0-0000-7000-8000-000000000000"
    for address in (f"{batch}/stream", f"{batch}/changes", "/api/stream", "/api/ws"):
        assert to(address) == to(f"{address}/") == "headway-stream"
    job = "/api/jobs/0199f2a0-0000-7000-8000-000000000000"
    others = ("/", "/api/batches", "/api/streams", "/health/live", job, f"{job}/artifacts", f"{job}/artifacts/{ID}")
    for address in (batch, f"{batch}/logs", f"{batch}/streams", *others):
        assert to(address) == "headway-api"
    for address in ("/metrics", "/metrics/", "/health/ready"):
        assert to(address) == "headway-away"


@by_overlay
def test_addresses_that_a_ticket_opens_are_not_logged_and_streams_not_cut(name: str) -> None:
    found = of_kind(overlay(name), "Ingress")
    for address in (*opened_by_tickets(), "/api/stream"):
        for each in (address, f"{address}/"):
            # the longest path is the first, as above
            _, service, options = max(
                (len(path), service, options_of(ingress))
                for ingress in found
                for path, service in backends(ingress)
                if re.match(path, each, re.IGNORECASE)
            )
            assert options["enable-access-log"] == "false", each
            assert options["proxy-buffering"] == "off", each
            assert int(options["proxy-read-timeout"]) >= (3600 if service == "headway-stream" else 60), each
            if address.endswith("/stream"):
                assert set(options["custom-http-errors"].split(",")) == {"429", "502", "503", "504"}
                assert options["default-backend"] == "headway-away"


@by_overlay
def test_every_address_has_limits(name: str) -> None:
    for each in of_kind(overlay(name), "Ingress"):
        options = options_of(each)
        paths = dict(backends(each))
        assert options["use-regex"] == "true"
        assert "limit-rps" in options
        kilobytes = int(options["proxy-body-size"].removesuffix("k"))
        assert "/" not in paths or kilobytes * 1024 > max(DEFAULTS.max_upload, DEFAULTS.max_request)


def test_the_controller_writes_no_queries_and_tells_of_rates_as_other_gateways_do() -> None:
    options = controller_options()

    said = set(re.findall(r"\$(\w+)", options["log-format-upstream"]))
    assert {"request_method", "uri", "status"} <= said
    assert not said & {"request", "request_uri", "args", "query_string", "http_referer", "is_args"}
    assert not [name for name in said if name.startswith(("arg_", "http_")) and name != "http_user_agent"]
    # each lower level repeats requests that failed
    assert options["error-log-level"] == "emerg"
    # which custom-http-errors has
    assert options["limit-req-status-code"] == "429"


@by_overlay
def test_nothing_comes_in_or_goes_out_unless_a_policy_says_so(name: str) -> None:
    (deny,) = (each for each in of_kind(overlay(name), "NetworkPolicy") if not each["spec"]["podSelector"])
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for each in of_kind(overlay(name), "NetworkPolicy"):
        if each is not deny:
            # a direction that is there, and none that would be open to everything
            (direction,) = each["spec"]["policyTypes"]
            rules = each["spec"][direction.lower()]
            assert rules, name_of(each)
            for rule in rules:
                assert rule["from" if direction == "Ingress" else "to"], name_of(each)
                assert rule["ports"], name_of(each)


@by_overlay
def test_policies_select_pods_that_there_are_and_name_their_ports(name: str) -> None:
    pods = controllers(overlay(name))
    for each in of_kind(overlay(name), "NetworkPolicy"):
        mine = [pod for pod in pods if selects(each["spec"]["podSelector"], pod_labels(pod))]
        assert mine or each["spec"]["podSelector"] == {"matchLabels": SOLVER}, name_of(each)
        for expression in each["spec"]["podSelector"].get("matchExpressions", []):
            found = {component(pod) for pod in mine}
            # `away` comes with an ingress
            assert found == set(expression["values"]), name_of(each)
        for rule in each["spec"].get("ingress", []):
            for port in rule["ports"]:
                for pod in mine:
                    assert port["port"] in {one["name"] for one in container_of(pod)["ports"]}, name_of(each)
        peers = [
            peer for rule in each["spec"].get("egress", []) for peer in rule["to"] if peer.keys() == {"podSelector"}
        ]
        peers += [
            peer for rule in each["spec"].get("ingress", []) for peer in rule["from"] if peer.keys() == {"podSelector"}
        ]
        for peer in peers:
            assert any(selects(peer["podSelector"], pod_labels(pod)) for pod in pods), name_of(each)


@by_overlay
def test_everybody_reaches_what_it_needs_and_is_reached_by_whom_it_serves(name: str) -> None:
    for each in controllers(overlay(name)):
        labels, what = dict(pod_labels(each)), component(each)
        out = {one["metadata"]["name"] for one in policies(overlay(name), labels, "egress")}
        into = {one["metadata"]["name"] for one in policies(overlay(name), labels, "ingress")}
        assert ({"headway-dns", "headway-to-postgres"} <= out) is (what in STARTS), name_of(each)
        assert ("headway-to-redis" in out) is (what in STARTS - {"migrate"}), name_of(each)
        assert ("headway-from-ingress" in into) is (what in {"api", "stream", "away"}), name_of(each)
        if what in SERVERS:
            assert into == {f"headway-{what}"}, name_of(each)
            assert not out, name_of(each)


@pytest.mark.parametrize("way", ["ingress-nginx", "gateway-api"])
def test_who_gives_certificates_may_ask_the_pod_that_answers_for_us(tmp_path: Path, way: str) -> None:
    objects = tuple(combine(tmp_path / "one", [way]))
    (solver,) = policies(objects, SOLVER, "ingress")
    (from_outside,) = (
        each for each in of_kind(objects, "NetworkPolicy") if each["metadata"]["name"].startswith("headway-from-")
    )
    ((rule,), (same,)) = solver["spec"]["ingress"], from_outside["spec"]["ingress"]
    assert rule["from"] == same["from"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8089}]


def test_whoever_gets_the_address_of_a_broker_may_reach_it(tmp_path: Path) -> None:
    objects = tuple(combine(tmp_path / "one", ["rabbitmq"]))
    for each in ours(objects):
        named = {policy["metadata"]["name"] for policy in policies(objects, dict(pod_labels(each)), "egress")}
        assert ("headway-to-rabbitmq" in named) is ("BROKER_URL" in given(objects, each)), name_of(each)
    (policy,) = (each for each in objects if each["metadata"]["name"] == "headway-to-rabbitmq")
    (rule,) = policy["spec"]["egress"]
    assert {port["port"] for port in rule["ports"]} == {5672, 5671}


def test_keda_may_count_where_the_servers_are_in_the_cluster() -> None:
    (policy,) = (each for each in overlay("dev") if name_of(each) == "NetworkPolicy headway-postgres")
    (rule,) = policy["spec"]["ingress"]
    assert {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}},
        "podSelector": {"matchLabels": {"app": "keda-operator"}},
    } in rule["from"]


def test_ports_that_servers_outside_may_have_are_in_comments() -> None:
    text = (FOLDER / "overlays" / "production" / "servers.yaml").read_text()
    found = {
        each["metadata"]["name"]: {port["port"] for port in each["spec"]["egress"][0]["ports"]}
        for each in yaml.safe_load_all(re.sub(r"(?m)^( +)# (- \{)", r"\1\2", text))
    }
    assert found == {"headway-to-postgres": {5432, 6432}, "headway-to-redis": {6379, 26379, 6380}}


def test_prometheus_finds_every_service_and_may_come_in() -> None:
    objects = overlay("production")
    (monitor,) = of_kind(objects, "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]

    chosen = [each for each in controllers(objects) if selects(monitor["spec"]["selector"], pod_labels(each))]
    assert chosen == ours(objects)
    for each in chosen:
        assert endpoint["port"] in {port["name"] for port in container_of(each)["ports"]}
        names = {one["metadata"]["name"] for one in policies(objects, dict(pod_labels(each)), "ingress")}
        assert "headway-from-prometheus" in names


def test_replicas_are_said_by_one_only() -> None:
    objects = overlay("production")
    scalers = of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    targets = [each["spec"]["scaleTargetRef"]["name"] for each in scalers]

    assert sorted(targets) == sorted(each["metadata"]["name"] for each in ours(objects))
    for each in of_kind(objects, "Deployment"):
        assert ("replicas" in each["spec"]) is (each["metadata"]["name"] not in targets), name_of(each)
    for each in scalers:
        least = each["spec"].get("minReplicas", each["spec"].get("minReplicaCount"))
        most = each["spec"].get("maxReplicas", each["spec"].get("maxReplicaCount"))
        assert 1 <= least < most


def test_streams_are_added_long_before_one_is_full() -> None:
    objects = overlay("production")
    (scaler,) = (each for each in of_kind(objects, "HorizontalPodAutoscaler") if "stream" in name_of(each))
    (pods,) = (metric["pods"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods")
    (stream,) = (each for each in ours(objects) if component(each) == "stream")
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]

    assert 2 * int(pods["target"]["averageValue"]) < int(given(objects, stream)["HEADWAY_VIEWERS"] or 0)
    assert rule["name"]["as"] == pods["metric"]["name"]
    assert rule["seriesQuery"].startswith(rule["name"]["as"] + "{")
    assert re.fullmatch(rule["name"]["matches"], rule["name"]["as"])
    assert rule["name"]["as"] in DESCRIBED


@by_overlay
def test_what_is_referred_to_is_there(name: str) -> None:
    objects = overlay(name)
    accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
    maps = {each["metadata"]["name"] for each in of_kind(objects, "ConfigMap")}
    claims = {each["metadata"]["name"] for each in of_kind(objects, "PersistentVolumeClaim")}
    for each in controllers(objects):
        assert pod_of(each).get("serviceAccountName", "default") in accounts | {"default"}, name_of(each)
        for volume in pod_of(each).get("volumes", []):
            assert volume.get("configMap", {"name": None})["name"] in maps | {None}, name_of(each)
            assert volume.get("persistentVolumeClaim", {"claimName": None})["claimName"] in claims | {None}
    used = {pod_of(each).get("serviceAccountName") for each in controllers(objects)}
    assert accounts <= used


@by_overlay
def test_secrets_are_only_referred_to(name: str) -> None:
    assert not of_kind(overlay(name), "Secret")
    named = {secret for each in controllers(overlay(name)) for secret, _, _ in secrets(each)}
    assert named <= {"headway", "headway-s3"}
    for each in of_kind(overlay(name), "ConfigMap"):
        for key, value in each["data"].items():
            assert not re.search(r"PASSWORD|SECRET|TOKEN|_KEY\b|_KEY_OLD", key), f"{key} is a secret"
            assert not re.search(r"://[^/\s]*:[^/\s]*@", value), f"{key} holds a password"
