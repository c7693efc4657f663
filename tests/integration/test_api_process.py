"""The api service as the process that it is in production: what it logs, and how it leaves."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx
import pytest
import sqlalchemy as sa
from msgspec import structs

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.processes import environment
from tests.support.web import assert_problem, client, decoded, submit


@contextmanager
def api(settings: Settings, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.api"],
            env=environment(structs.replace(settings, port=port)),
            stdout=stderr,
            stderr=stderr,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _answers(address) or process.poll() is not None, "the api to answer")
        yield address, process
    finally:
        process.kill()
        process.wait(10)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_mistake_of_ours_is_logged_without_tokens_and_shown_to_nobody(
    form: Literal["text", "json"], settings: Settings, engine: sa.Engine, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with api(structs.replace(settings, log_format=form), log) as (address, process):
        with client(address, settings) as anna:
            token = anna.headers["authorization"].removeprefix("Bearer ")
            batch = submit(anna)
            job_id = decoded(anna.get(f"/api/batches/{batch['batchId']}/jobs"))["items"][0]["id"]
            with engine.begin() as connection:
                connection.execute(sa.text("DROP TABLE transitions"))
            reply = anna.get(f"/api/jobs/{job_id}")
            said = assert_problem(reply, 500, "internal")
            assert said["detail"] == said["title"]
            anna.get(batch["streamUrl"])
            expired = issue_token(settings, OWNER, ttl=-5)
            assert anna.get("/api/kinds", headers={"Authorization": f"Bearer {expired}"}).status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    logged = log.read_text()
    assert "UndefinedTable" in logged
    ticket = batch["streamUrl"].partition("ticket=")[2]
    for secret in (token, ticket, expired):
        for part in (secret, *secret.split(".")[1:]):
            assert part not in logged


def test_a_taken_port_is_one_sentence(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = subprocess.run(
            [sys.executable, "-m", "services.api"],
            env=environment(structs.replace(settings, port=taken.getsockname()[1])),
            capture_output=True,
            timeout=20,
            check=False,
        )
    assert process.returncode == 2
    assert b"Cannot listen" in process.stderr
    assert b"Traceback" not in process.stderr
