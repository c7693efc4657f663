"""What docs/schedules.md tells people to put into a crontab or a cluster does what it says there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from services.api.app import create_app
from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.needs import program
from tests.support.web import decoded, served

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "schedules.md").read_text()


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


@pytest.fixture
def place(address: str, settings: Settings, tmp_path: Path) -> dict[str, str]:
    """An environment in which the commands of the document find what they name."""
    command = tmp_path / "bin" / "headway"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m infra.cli.main "$@"\n')
    command.chmod(0o755)
    token = issue_token(settings, OWNER, scope="write")
    (tmp_path / "token").write_text(token)
    mine = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")}
    ours = {"HEADWAY_URL": address, "HEADWAY_TOKEN": token, "HEADWAY_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    return mine | ours | {"PATH": f"{command.parent}:{mine['PATH']}", "NO_PROXY": "127.0.0.1"}


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    return str(found)


def run(*command: str, place: dict[str, str]) -> str:
    done = subprocess.run(command, env=place, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def titles(anna: httpx.Client) -> list[tuple[str, int, bool]]:
    found = decoded(anna.get("/api/batches"))["items"]
    return [(batch["title"], batch["counts"]["total"], batch["expiresAt"] is not None) for batch in found]


def test_the_line_of_the_crontab_makes_one_batch_a_night(
    anna: httpx.Client, place: dict[str, str], tmp_path: Path
) -> None:
    variable, line = block("crontab").splitlines()
    assert variable.startswith("HEADWAY_URL=https://")
    command = re.sub(r"^(\S+ ){5} *", "", line).replace(r"\%", "%")
    # the same night, whatever time of day it is here
    command = command.replace("/etc/headway/token", str(tmp_path / "token")).replace("today", "tomorrow")
    del place["HEADWAY_TOKEN"]
    printed = [run("/bin/sh", "-c", command, place=place) for _ in range(2)]
    assert printed[0].splitlines()[0] == printed[1].splitlines()[0]
    assert titles(anna) == [("Nightly", 3, True)]


def test_curl_alone_makes_one_batch_an_hour(anna: httpx.Client, place: dict[str, str]) -> None:
    program("curl")
    for _ in range(2):
        run("/bin/sh", "-c", block("sh"), place=place)
    assert titles(anna) == [("Hourly", 1, False)]


def test_the_cron_job_makes_one_batch_a_run(anna: httpx.Client, place: dict[str, str]) -> None:
    manifest: dict[str, Any] = msgspec.yaml.decode(block("yaml"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "CronJob")
    (container,) = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    named = {variable["name"] for variable in container["env"]}
    assert named == {"RUN", "HEADWAY_URL", "HEADWAY_TOKEN"}
    for name in ("nightly-29384520", "nightly-29384520", "nightly-29385960"):
        environment = place | {"RUN": name}
        # as Kubernetes does it, before anything is run
        arguments = [part.replace("$(RUN)", name) for part in container["args"]]
        run(*container["command"], *arguments, place=environment)
    assert titles(anna) == [("Nightly", 3, False)] * 2
