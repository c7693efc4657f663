"""A real Docker engine, for tests of containers."""

from collections.abc import Iterator
from contextlib import contextmanager

import docker
from docker.errors import DockerException

from tests.support.needs import needs


@contextmanager
def docker_engine(image: str) -> Iterator[docker.DockerClient]:
    """One that has this image."""
    client = None
    try:
        client = docker.from_env(timeout=10)
        there = bool(client.images.list(image))
    except DockerException:
        there = False
    try:
        needs(f"Docker engine with the image {image}", there=there)
        assert client is not None
        yield client
    finally:
        if client is not None:
            client.close()
