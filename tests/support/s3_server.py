"""A real S3 server: versitygw, over a directory."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.support.batches import wait_for
from tests.support.go_tools import VERSITYGW, go_tool
from tests.support.ports import own_port
from tests.support.small_disk import on_small_disk

BUCKET = "headway-files"
KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "a secret for tests"}


class S3Server:
    """`start()`, and `stop()` at the end; it may be killed and frozen in between. Its port stays the same."""

    def __init__(self, directory: Path, space: int | None = None) -> None:
        """`space` in bytes: all that there is for what it stores."""
        self._program = go_tool(VERSITYGW)
        self._directory = directory
        self._port = own_port()
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("objects", "about"):
            (directory / name).mkdir(parents=True)
        self._within = [] if space is None else on_small_disk(directory / "objects", space)
        self._log = (directory / "log").open("ab")

    @property
    def environment(self) -> Mapping[str, str]:
        """By which a process finds it."""
        return {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self._port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **KEYS,
        }

    def start(self) -> None:
        user = ["--access", KEYS["AWS_ACCESS_KEY_ID"], "--secret", KEYS["AWS_SECRET_ACCESS_KEY"]]
        self._process = subprocess.Popen(
            [
                *(*self._within, self._program, "--port", f"127.0.0.1:{self._port}", *user, "--quiet", "--keep-alive"),
                *("posix", "--sidecar", self._directory / "about", self._directory / "objects"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        wait_for(self._answers, "the S3 server to answer")

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except OSError:
            assert self._process is not None
            assert self._process.poll() is None, Path(self._log.name).read_text()
            return False
        return True

    def stop(self, *, for_good: bool = False) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)
            self._process = None
        if for_good:
            self._log.close()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self._process.pid}/task")
        wait_for(
            lambda: all(task.read_text().rpartition(") ")[2].startswith("T") for task in tasks.glob("*/stat")),
            "all of its threads to stand still",
        )

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def client(self) -> Any:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL_S3"],
            region_name=self.environment["AWS_DEFAULT_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            config=Config(request_checksum_calculation="when_required"),
        )


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """With a bucket, for all tests of a module."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    server.client.create_bucket(Bucket=BUCKET)
    yield server
    server.stop(for_good=True)


@pytest.fixture
def own_s3_server(tmp_path: Path) -> Iterator[S3Server]:
    """One that a test may stop."""
    server = S3Server(tmp_path / "s3")
    server.start()
    server.client.create_bucket(Bucket=BUCKET)
    yield server
    server.stop(for_good=True)


def point_at(server: S3Server, patch: pytest.MonkeyPatch) -> None:
    """This process, and those that it starts, find the server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in server.environment.items():
        patch.setenv(name, value)
