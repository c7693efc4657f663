"""Readers that others wrote, ready to read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.needs import program
from tests.support.readers import Reader, install, replay
from tests.support.sse import Event


@pytest.fixture(scope="session")
def node() -> str:
    return program("node")


@pytest.fixture(scope="session")
def readers(node: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are."""
    return install(tmp_path_factory.mktemp("readers") / "node")


@pytest.fixture
def replayed(node: str, readers: Path) -> Callable[[bytes], list[Event]]:
    """What a recorded stream tells: all readers the same, wherever its bytes are cut."""

    def replayed(body: bytes) -> list[Event]:
        events, ways = replay(node, readers, body)
        assert ways > 20, "it was not cut"
        return events

    return replayed


@pytest.fixture
def read(node: str, readers: Path) -> Callable[..., Reader]:
    """One of them begins to read; for a `with`."""

    def read(kind: Any, address: str) -> Reader:
        return Reader(node, readers, kind, address)

    return read
