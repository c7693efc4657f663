"""A real Docker engine, for tests of containers."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import docker
from docker.errors import DockerException

from tests.support.needs import needs


@contextmanager
def docker_engine(image: str) -> Iterator[docker.DockerClient]:
    """One that has this image."""
    needs("Docker engine", there=_answers())
    client = docker.from_env(timeout=10)
    try:
        there = False
        with suppress(DockerException):
            there = bool(client.images.list(image))
        needs(f"Docker engine with the image {image}", there=there)
        yield client
    finally:
        client.close()


def _answers() -> bool:
    """Asked without the SDK, which leaves its socket open when nobody does."""
    scheme, _, place = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").partition("://")
    if scheme != "unix":
        return True
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(place) == 0
