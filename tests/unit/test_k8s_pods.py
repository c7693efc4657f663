"""infra/k8s: what pods may do, what they get, and how long they have to leave."""

import re
import tempfile
import tomllib
from pathlib import Path

import pytest

from infra.workers import run
from infra.workers.crew import OVERTIME, Crew
from shared.kinds import QUEUES
from shared.settings import Settings
from shared.web.health import health_routes
from tests.support.manifests import (
    OURS,
    OVERLAYS,
    Object,
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
    quantity,
)

ROOT = Path(__file__).parents[2]
OTHERS = {"postgres:18-bookworm", "valkey/valkey:9-bookworm", "nginx:1.28-bookworm"}
IDLE = 128 * 2**20
"""Bytes of a process of ours that does nothing, about."""

VIEWER = 2048
"""Bytes that one costs."""

by_overlay = pytest.mark.parametrize("name", OVERLAYS)


def seconds(name: str, controller: Object, variable: str) -> float:
    return float(given(overlay(name), controller)[variable] or 0)


@by_overlay
def test_all_services_are_there(name: str) -> None:
    assert {component(each) for each in ours(overlay(name))} == set(OURS)
    assert [component(each) for each in of_kind(overlay(name), "Job")] == ["migrate"]


@by_overlay
def test_each_queue_has_workers(name: str) -> None:
    served = []
    for each in ours(overlay(name)):
        if component(each) == "worker":
            *command, queue = container_of(each)["args"]
            assert command == ["python", "-m", "infra.workers", "--queue"]
            assert pod_labels(each)["headway/queue"] == queue
            assert each["metadata"]["name"] == f"headway-worker-{queue}"
            served.append(queue)

    assert sorted(served) == sorted(QUEUES)


@by_overlay
def test_a_pod_may_do_nothing_that_it_does_not_need(name: str) -> None:
    for each in controllers(overlay(name)):
        pod = pod_of(each)
        user = 999 if component(each) in {"postgres", "redis"} else 10001
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name_of(each)
        assert context["runAsUser"] == context["runAsGroup"] == user, name_of(each)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name_of(each)
        assert container_of(each)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name_of(each)
        assert pod["automountServiceAccountToken"] is False, name_of(each)
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}, name_of(each)


@by_overlay
def test_no_name_of_a_service_becomes_a_setting(name: str) -> None:
    """As those of the Service headway-api, in every pod, would: what looks like one and is none stops the start."""
    assert any(each["metadata"]["name"].startswith("headway") for each in of_kind(overlay(name), "Service"))
    for each in controllers(overlay(name)):
        assert pod_of(each)["enableServiceLinks"] is False, name_of(each)


@by_overlay
def test_what_a_pod_writes_has_a_place_and_an_end(name: str) -> None:
    for each in controllers(overlay(name)):
        volumes = {volume["name"]: volume for volume in pod_of(each).get("volumes", [])}
        volumes |= {claim["metadata"]["name"]: claim for claim in each["spec"].get("volumeClaimTemplates", [])}
        mounts = container_of(each)["volumeMounts"]

        assert {mount["name"] for mount in mounts} == volumes.keys(), name_of(each)
        assert "/tmp" in {mount["mountPath"] for mount in mounts}, name_of(each)  # noqa: S108  # in the container
        for volume in volumes.values():
            assert "hostPath" not in volume, name_of(each)
            assert "emptyDir" not in volume or quantity(volume["emptyDir"]["sizeLimit"]) > 0, name_of(each)


@by_overlay
def test_a_pod_asks_for_what_it_needs_and_gets_no_more_than_its_limit(name: str) -> None:
    for each in controllers(overlay(name)):
        resources = container_of(each)["resources"]
        for what in ("cpu", "memory"):
            assert 0 < quantity(resources["requests"][what]) <= quantity(resources["limits"][what]), name_of(each)


def test_dev_has_room_on_two_processors_also_while_it_is_updated() -> None:
    """Of which a control plane, DNS and an ingress controller ask for more than one."""
    pods = [
        (each["spec"].get("replicas", 1) + (each["kind"] == "Deployment"))
        * quantity(container_of(each)["resources"]["requests"]["cpu"])
        for each in controllers(overlay("dev"))
    ]
    assert sum(pods) <= 0.8


@by_overlay
def test_images_are_ours_or_known_and_have_a_version(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for each in controllers(overlay(name)):
        image = container_of(each)["image"]
        if image not in OTHERS:
            found = re.fullmatch(r"(?:registry\.example\.org/)?headway-([a-z]+):(.+)", image)
            assert found, image
            assert found[1] == component(each)
            assert found[2] == {"dev": "dev", "production": version}[name]


@pytest.fixture
def worker_routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    crew = Crew(Settings(database_url="", redis_url="", ticket_key=""), QUEUES, 1)
    crew.close()
    return set(run._routes(crew))


@by_overlay
def test_services_listen_where_their_ports_and_probes_are(name: str, worker_routes: set[str]) -> None:
    for each in ours(overlay(name)):
        container, environment = container_of(each), given(overlay(name), each)
        worker = component(each) == "worker"
        routes = worker_routes if worker else {route.path for route in health_routes([]).routes}

        assert container["ports"] == [{"name": "http", "containerPort": 8000}]
        assert environment["HEADWAY_WORKER_PORT" if worker else "HEADWAY_PORT"] == "8000"
        assert environment["HEADWAY_HOST"] == "0.0.0.0"  # noqa: S104  # in the container
        for probe, path in (("startup", "live"), ("liveness", "live"), ("readiness", "ready")):
            assert container[f"{probe}Probe"]["httpGet"] == {"path": f"/health/{path}", "port": "http"}
            assert f"/health/{path}" in routes


@pytest.mark.parametrize("name", ["base", *OVERLAYS])
def test_nobody_is_killed_before_its_time_to_leave_is_over(name: str) -> None:
    for each in ours(overlay(name)):
        needed = seconds(name, each, "HEADWAY_DRAIN_GRACE")
        if component(each) == "worker":
            needed += seconds(name, each, "HEADWAY_CANCEL_GRACE") + OVERTIME
        hook = container_of(each).get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
        before: int = hook["sleep"]["seconds"]

        assert pod_of(each)["terminationGracePeriodSeconds"] > needed + before, name_of(each)
        # api closes its door at the signal, stream after half of its time
        assert before == (10 if component(each) == "api" else 0), name_of(each)


@pytest.mark.parametrize("name", ["base", *OVERLAYS])
def test_a_stream_process_has_room_for_what_it_may_hold(name: str) -> None:
    (stream,) = (each for each in ours(overlay(name)) if component(each) == "stream")
    environment = given(overlay(name), stream)
    buffer, viewers = int(environment["HEADWAY_BUFFER"] or 0), int(environment["HEADWAY_VIEWERS"] or 0)

    # twice, because both are kept to about
    limit = quantity(container_of(stream)["resources"]["limits"]["memory"])
    assert limit >= 2 * (buffer + viewers * VIEWER) + IDLE


@by_overlay
def test_pods_of_a_service_are_spread_over_zones_and_nodes(name: str) -> None:
    for each in of_kind(overlay(name), "Deployment"):
        spread = pod_of(each)["topologySpreadConstraints"]
        assert {one["topologyKey"] for one in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        for one in spread:
            assert one["labelSelector"] == each["spec"]["selector"], name_of(each)


@by_overlay
def test_a_new_version_has_a_new_migration_job(name: str) -> None:
    """A Job cannot be changed: neither, therefore, may it change with the settings, whose name has a hash."""
    (job,) = of_kind(overlay(name), "Job")
    tag = container_of(job)["image"].rpartition(":")[2]

    assert job["metadata"]["name"] == f"headway-migrate-{tag}"
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    assert given(overlay(name), job).keys() == {"DATABASE_URL"}
    assert pod_of(job)["restartPolicy"] == "Never"
