"""docs/kubernetes.md and infra/k8s: the commands that make secrets, and the names that the document goes by."""

import json
import os
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import yaml

from shared.settings import load_settings
from tests.support.documents import Document
from tests.support.manifests import (
    COMPONENTS,
    FOLDER,
    OVERLAYS,
    component,
    container_of,
    given,
    name_of,
    of_kind,
    ours,
    overlay,
    pod_of,
    secrets,
)
from tests.support.needs import program

GUIDE = Document("kubernetes.md")

KUBECTL = """#!/bin/sh
# what would have come by standard input, beside the arguments
case "$*" in *--from-env-file=/dev/stdin*) cat > "$TOLD/$2-$6";; esac
echo "$*" >> "$TOLD/calls"
"""


def blocks(section: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", GUIDE.section(section), re.MULTILINE | re.DOTALL)


def run(commands: str, folder: Path, given_by_hand: str = "") -> dict[str, str]:
    """The keys of the one Secret that the commands made."""
    folder.mkdir()
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    done = subprocess.run(
        [program("bash"), "-euc", commands],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "TOLD": str(folder)},
        input=given_by_hand,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=FOLDER.parents[1],
    )
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("headway*-headway")
    lines = [line.partition("=") for line in made.read_text().splitlines()]
    assert all(value not in (folder / "calls").read_text() for _, _, value in lines), "a value stood in an argument"
    return {key: value for key, _, value in lines}


def needed(name: str, secret: str) -> set[str]:
    """What pods of an overlay cannot start without."""
    everybody = {
        reference for each in of_kind(overlay(name), "Deployment", "StatefulSet", "Job") for reference in secrets(each)
    }
    return {key for of, key, optional in everybody if of == secret and not optional}


def test_the_secrets_of_dev_are_all_that_it_needs_and_let_it_start(tmp_path: Path) -> None:
    program("openssl")
    made = run(blocks("Ten minutes")[1], tmp_path / "once")
    again = run(blocks("Ten minutes")[1], tmp_path / "again")

    assert needed("dev", "headway") <= made.keys()
    assert all(made[key] != again[key] for key in made), "a value is always the same"
    settings = overlay("dev")
    for each in ours(settings):
        found = {key: made.get(key) if value is None else value for key, value in given(settings, each).items()}
        environment = {key: value for key, value in found.items() if value is not None}
        loaded = load_settings(environment, keys=component(each) != "worker")
        assert f":{made['POSTGRES_PASSWORD']}@headway-postgres/" in loaded.database_url
        assert f":{made['REDIS_PASSWORD']}@headway-redis" in loaded.redis_url
    assert made["HEADWAY_SECRET"] != made["HEADWAY_TICKET_KEY"]


def test_the_secrets_of_production_are_all_that_it_needs(tmp_path: Path) -> None:
    program("openssl")
    (commands,) = blocks("Secrets")
    by_hand = "postgresql://headway:x@db.example.org/headway\nrediss://:x@redis.example.org\n"
    made = run(commands, tmp_path / "once", by_hand)

    assert needed("production", "headway") <= made.keys()
    assert (made["DATABASE_URL"], made["REDIS_URL"]) == tuple(by_hand.split())


def test_secrets_and_their_keys_are_documented() -> None:
    described = dict(zip(GUIDE.keys("Secrets"), GUIDE.rows("Secrets"), strict=True))
    for name in OVERLAYS:
        for each in of_kind(overlay(name), "Deployment", "Job"):
            for secret, key, _ in secrets(each):
                assert f"`{key}`" in described[secret][1], f"{key} of {secret}"
    (authentication,) = of_kind(overlay("production"), "TriggerAuthentication")
    (reference,) = authentication["spec"]["secretTargetRef"]
    assert f"`{reference['key']}`" in described[reference["name"]][1]


def test_folders_and_policies_are_documented() -> None:
    folders = set(re.findall(r"`(?:components|overlays|queues)/([a-z0-9-]+)`", GUIDE.section("What there is")))
    queues = {path.name for path in (FOLDER / "queues").iterdir()} - {"worker"}
    assert folders == set(COMPONENTS) | set(OVERLAYS) | queues

    written = set(re.findall(r"`(headway-[a-z-]+)`", GUIDE.section("Network policies")))
    sources = [path.read_text() for path in FOLDER.rglob("*.yaml")]
    there = {
        each["metadata"]["name"]
        for text in sources
        for each in yaml.safe_load_all(text)
        if each and each.get("kind") == "NetworkPolicy"
    }
    assert written == there


def test_the_job_for_operators_is_as_careful_as_the_others() -> None:
    (job,) = yaml.safe_load_all((FOLDER / "once" / "epoch.yaml").read_text())
    (migrate,) = of_kind(overlay("production"), "Job")

    kubernetes_validate.validate(json.loads(json.dumps(job)), "1.37", strict=True)
    assert container_of(job)["securityContext"] == container_of(migrate)["securityContext"]
    for field in ("securityContext", "automountServiceAccountToken", "enableServiceLinks", "serviceAccountName"):
        assert pod_of(job)[field] == pod_of(migrate)[field], name_of(migrate)
    assert container_of(job)["image"] == container_of(migrate)["image"].replace("migrate", "cli")
    assert container_of(job)["args"] == ["epoch", "rotate"]
