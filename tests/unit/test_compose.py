"""compose.yaml: what a schema cannot see. tests/deploy brings it up."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.settings import COMMAND_ONLY, Settings, variable

ROOT = Path(__file__).parents[2]
OBSERVABILITY = "infra/observability/compose.yaml"
FILES = ("compose.yaml", "compose.dev.yaml", OBSERVABILITY)
OURS = ("api", "stream", "worker")

GIVEN = {"HEADWAY_HOST", "HEADWAY_PORT", "HEADWAY_WORKER_PORT"}
"""The images say them, and the gateway and the health checks rely on it."""

LEAVING = 15
"""Seconds beyond drain and cancel that a worker may take (docs/operations.md)."""

IDENTITY = {
    "HEADWAY_SECRET",
    "HEADWAY_TICKET_KEY",
    "HEADWAY_TICKET_KEY_OLD",
    "HEADWAY_JWKS_URL",
    "HEADWAY_JWKS_ALGORITHM",
    "HEADWAY_ISSUER",
    "HEADWAY_AUDIENCE",
}
"""Not for workers, who run what others wrote."""


def compose(file: str = "compose.yaml") -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())
    return read


@pytest.mark.parametrize("file", FILES)
def test_is_a_compose_file(file: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", OURS)
def test_every_setting_can_be_given_in_env(service: str) -> None:
    passed = set(compose()["services"][service]["environment"])
    settings = {variable(field) for field in Settings.__struct_fields__}
    assert settings - passed == GIVEN | (IDENTITY if service == "worker" else set())
    assert {name for name in passed if name.startswith("HEADWAY_")} <= settings


def test_the_command_finds_the_gateway() -> None:
    environment = compose()["services"]["cli"]["environment"]
    assert set(environment) & COMMAND_ONLY == {"HEADWAY_URL"}
    assert environment["HEADWAY_URL"].endswith(":8443")


def test_names_no_password() -> None:
    """Each comes from .env, and without one nothing starts."""
    for file in FILES:
        text = (ROOT / file).read_text()
        for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "HEADWAY_TICKET_KEY", "GRAFANA_PASSWORD"):
            used = re.findall(rf"\$\{{{name}[^}}]*\}}", text)
            assert all(":?" in use for use in used), f"{file}: {used}"
        assert not re.findall(r"(?:PASSWORD|SECRET|KEY): *[\"']?\w", text), file


@pytest.mark.parametrize("service", [*compose()["services"], *compose(OBSERVABILITY)["services"]])
def test_each_service_is_confined_and_bounded(service: str) -> None:
    about = (compose()["services"] | compose(OBSERVABILITY)["services"])[service]
    assert about.get("read_only") or service == "grafana"  # which was not tried so
    assert about["cap_drop"] == ["ALL"]
    assert about["security_opt"] == ["no-new-privileges:true"]
    assert about["mem_limit"]
    assert about["pids_limit"]
    assert about["cpus"]
    assert set(about["logging"]["options"]) == {"max-size", "max-file"}
    assert about["restart"] == ("no" if service in {"migrate", "cli"} else "unless-stopped")
    local = all(port.startswith("127.0.0.1:") for port in about.get("ports", []))
    assert local == (service != "gateway"), "only the gateway is published"


def test_the_servers_are_reached_by_those_who_need_them_only() -> None:
    services, networks = compose()["services"], compose()["networks"]
    assert networks["data"] == {"internal": True}
    for server in ("postgres", "redis", "migrate"):
        assert services[server]["networks"] == ["data"]
    assert set(services["gateway"]["networks"]) == {"backend"}


@pytest.mark.parametrize("service", OURS)
def test_waits_for_the_migration_and_leaves_in_time(service: str) -> None:
    about = compose()["services"][service]
    assert about["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    grace = re.fullmatch(r"\$\{STOP_GRACE:-(\d+)s\}", about["stop_grace_period"])
    defaults = Settings(database_url="", redis_url="", ticket_key="")
    assert grace is not None
    assert int(grace[1]) > defaults.drain_grace + defaults.cancel_grace + LEAVING


def test_every_image_has_a_target() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    for name, about in compose()["services"].items():
        if "build" in about:
            assert about["build"]["target"] == name
            assert name in targets
            assert about["image"] == f"headway-{name}:${{TAG:-latest}}"
