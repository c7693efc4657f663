"""The stack of compose.yaml as an operator has it: checked from outside, broken on purpose, updated, and taken down.

In this order: the last test looks at what all of it has logged.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from selenium import webdriver

from shared.auth import issue_token
from tests.browser.page import Page
from tests.support.audience import watched
from tests.support.batches import OWNER, job_rows, transition_rows, wait_for
from tests.support.documents import Document
from tests.support.errors_in_logs import errors
from tests.support.history import History, record_history
from tests.support.ordeal import PATIENCE, Ordeal
from tests.support.rehearsals import mixed
from tests.support.smoking import await_holder, await_smoke, await_worker, deliveries, outcome, smoking
from tests.support.stack import ROOT, SERVICES, Stack, docker
from tests.support.tls import client_context

pytestmark = pytest.mark.timeout(1500)

REPLICAS = {"gateway": 1, "api": 1, "stream": 2, "worker": 2, "postgres": 1, "redis": 1}


def headway(stack: Stack, *arguments: str, token: str = "") -> str:
    """What the `headway` command of this machine prints, once it has ended well."""
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", *arguments, *(["--token", token] if token else [])],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "SSL_CERT_FILE": str(stack.certificates / "certificate.pem")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_is_what_compose_says(stack: Stack) -> None:
    found = stack.containers(*SERVICES)
    assert {service: sum(c.service == service for c in found) for service in SERVICES} == REPLICAS
    for container in found:
        host = container.about["HostConfig"]
        assert host["ReadonlyRootfs"], f"{container} may write where it likes"
        assert host["CapDrop"] == ["ALL"], f"{container} has powers"
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["Memory"], f"{container} may take all memory"
        assert host["PidsLimit"], f"{container} may fork without end"
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert container.run("sh", "-c", "touch /probe 2>/dev/null || echo refused", user="0") == "refused\n"
        published = [port for port in container.about["NetworkSettings"]["Ports"].values() if port]
        assert bool(published) == (container.service == "gateway"), f"{container} can be reached from outside"
        if container.service != "postgres":  # it begins as root, to give the volume to its own user
            users = container.run("sh", "-c", "cat /proc/[0-9]*/status 2>/dev/null | grep ^Uid:")
            assert set(users.split()) == {"Uid:", "10001"}, f"{container}: {users}"
    (migrate,) = stack.containers("migrate")
    assert migrate.state["ExitCode"] == 0
    assert (stack.certificates / "key.pem").stat().st_mode & 0o77 == 0


def test_smoke_through_the_gateway(stack: Stack) -> None:
    token, other = (issue_token(stack.settings, owner) for owner in (OWNER, "somebody else"))
    said = headway(stack, "smoke", stack.address, "--other-token", other, token=token)
    assert "checks passed" in said
    assert "left out" not in said


def test_smoke_from_the_image_for_operators(stack: Stack) -> None:
    assert "checks passed" in stack.compose("run", "--rm", "-T", "cli", "smoke", seconds=300)
    token = issue_token(stack.settings, OWNER)
    assert "checks passed" in stack.compose("run", "--rm", "-T", "cli", "doctor", "--token", token, seconds=300)


def test_plain_http_is_sent_to_https_and_metrics_are_not_published(stack: Stack) -> None:
    plain = f"http://127.0.0.1:{stack.env['GATEWAY_HTTP_PORT']}"
    reply = httpx.get(f"{plain}/api/kinds", trust_env=False, follow_redirects=False)
    assert reply.status_code in {301, 308}
    assert reply.headers["location"] == f"{stack.address}/api/kinds", "the port is that of HEADWAY_PUBLIC_URL"
    with httpx.Client(base_url=stack.address, verify=client_context(), trust_env=False) as api:
        assert api.get("/metrics").status_code == 404
        assert api.get("/health/ready").status_code == 404


class Whole:
    """Of the stack what an ordeal wants to know of an installation."""

    services = ()

    def __init__(self, stack: Stack) -> None:
        self.engine, self.settings = stack.engine, stack.settings
        self.api_address = stack.address

    def said(self) -> str:
        """The last test looks at it."""
        return ""


@contextmanager
def ordeal(stack: Stack, jobs: int) -> Iterator[tuple[Ordeal, str]]:
    """A batch that runs under viewers of each kind, all of them through the gateway; and the address of its page."""
    record_history(stack.engine)
    token = issue_token(stack.settings, OWNER)
    with httpx.Client(base_url=stack.address, verify=client_context(), trust_env=False) as api:
        body = mixed(jobs=jobs, lasting=3, step_ms=100)
        reply = api.post("/api/batches", json=body, headers={"Authorization": f"Bearer {token}"})
    assert reply.status_code == 201, reply.text
    batch_id = UUID(reply.json()["batchId"])
    with watched(stack.settings, batch_id, [stack.address]) as audience:
        history = History(stack.engine, batch_id)
        yield Ordeal(Whole(stack), history, audience, batch_id), reply.json()["webUrl"]  # type: ignore[arg-type]


def processing(stack: Stack, batch_id: UUID) -> int:
    return sum(job.status == "PROCESSING" for job in job_rows(stack.engine, batch_id))


def test_nothing_is_lost_when_replicas_are_killed_and_a_new_image_is_rolled_out(
    stack: Stack, chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    page = Page(chromium)
    chromium.execute_cdp_cmd("Security.setIgnoreCertificateErrors", {"ignore": True})
    with ordeal(stack, jobs=400) as (batch, web_url):
        batch.gets_on()
        page.open(web_url)
        page.wait("the page to be live", 60, light="live", percent=lambda percent: percent > 0)

        wait_for(lambda: processing(stack, batch.batch_id) > 3, "jobs to run", PATIENCE)
        killed = stack.containers("stream")[0]
        docker("kill", killed.id)
        batch.gets_on()
        killed = stack.containers("worker")[0]
        docker("kill", killed.id)
        batch.gets_on()

        stack.tag("new")
        stack.build()
        before = page.read()["percent"]
        batch.gets_on()
        stack.up()
        assert {c.label for c in stack.containers("api", "stream", "worker", "migrate")} == {stack.tags[-1]}
        batch.gets_on()
        after = page.wait("the page to go on", 60, light="live", percent=lambda percent: percent > before)
        assert after["percent"] < 100, "it was to run until the new image is there"
        batch.verdict(expired=True)
        page.wait("the page to see the end", 60, percent=100)
        page.photograph(tmp_path / "the end.png")
    lost = [step for step in transition_rows(stack.engine, batch.batch_id) if step.reason == "lease_expired"]
    assert lost, "the worker that was killed ran nothing"
    assert not [message for message in page.complaints() if "ERR_" not in message]
    assert "checks passed" in headway(stack, "smoke", stack.address, token=issue_token(stack.settings, OWNER))


def test_smoke_passes_while_the_stream_and_the_worker_that_it_hangs_on_are_killed(stack: Stack) -> None:
    token, trust = issue_token(stack.settings, OWNER), stack.certificates / "certificate.pem"
    streams = {f"http://{c.address(f'{stack.project}_data')}:8000": c for c in stack.containers("stream")}
    workers = {c.id[:12]: c for c in stack.containers("worker")}
    with smoking(stack.address, token, trust, "--disturbed", "--patience", "120") as smoke:
        batch_id = await_smoke(stack.engine, percent=50)
        docker("kill", streams[await_holder(deliveries(streams))].id)
        host, _ = await_worker(stack.engine, batch_id)
        docker("kill", workers[host].id)
        status, said = outcome(smoke, seconds=300)
    assert status == 0, said
    assert "tried again: 0." not in said
    assert [step for step in transition_rows(stack.engine, batch_id) if step.reason == "lease_expired"]
    stack.up()


def test_a_backup_is_restored_as_the_documents_say(stack: Stack, tmp_path: Path) -> None:
    backup, restore = re.findall(r"(?s)```sh\n(.*?)```", Document("deployment.md").section("Backup"))
    (api,) = stack.containers("api")
    headers = {"Authorization": f"Bearer {issue_token(stack.settings, OWNER)}"}
    kept = "/var/lib/headway/uploads/kept"
    with httpx.Client(base_url=stack.address, verify=client_context(), trust_env=False, headers=headers) as client:

        def create() -> str:
            reply = client.post("/api/batches", json=mixed(jobs=1, lasting=0, step_ms=0))
            assert reply.status_code == 201, reply.text
            return f"/api/batches/{reply.json()['batchId']}"

        before = create()
        wait_for(lambda: client.get(before).json()["status"] == "COMPLETED", "the batch to end", PATIENCE)
        api.run("sh", "-c", f"echo yes >{kept}")
        stack.script(backup, tmp_path)
        after = create()
        wait_for(lambda: client.get(after).json()["status"] == "COMPLETED", "the batch to end", PATIENCE)
        api.run("rm", kept)
        epoch = epoch_of(stack)
        stack.script(restore, tmp_path)
        stack.settle()
        assert client.get(before).json()["status"] == "COMPLETED"
        assert client.get(after).status_code == 404
    assert api.run("cat", kept) == "yes\n"
    api.run("rm", kept)
    assert epoch_of(stack) != epoch


def epoch_of(stack: Stack) -> str:
    with stack.engine.connect() as connection:
        return str(connection.execute(sa.text("SELECT secret FROM installation")).scalar_one())


def test_leaves_when_told_and_has_logged_no_error(stack: Stack) -> None:
    stack.engine.dispose()
    found = stack.containers("gateway", "api", "stream", "worker")
    grace = 45
    began = time.monotonic()
    docker("stop", "--time", str(grace), *(container.id for container in found), seconds=grace * len(found))
    assert time.monotonic() - began < grace * len(found)
    statuses = {str(c): c.state["ExitCode"] for c in stack.containers("gateway", "api", "stream", "worker")}
    assert set(statuses.values()) == {0}, statuses
    assert not [str(c) for c in stack.containers() if c.state["OOMKilled"]]
    stack.compose("stop", seconds=120)
    said = stack.said()
    assert all(said.get(service) for service in SERVICES), "somebody has said nothing at all"
    assert errors(said) == []


def test_is_taken_down_to_the_last_volume(stack: Stack) -> None:
    there = stack.left()
    assert all(there.values()), there
    stack.down()
    assert stack.left() == {kind: [] for kind in there}
