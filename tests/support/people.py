"""Fixtures of who is in most tests: somebody who writes a batch, and those who ask for it. A plugin of pytest."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from shared.auth import issue_ticket, issue_token, verify_token
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.streams import stream_thread
from tests.support.web import client
from tests.support.websockets import lone_server
from tests.support.writer import Writer


@pytest.fixture
def make_writer(engine: sa.Engine, settings: Settings) -> Iterator[Callable[..., Writer]]:
    """Writers of so many jobs each; `of`: other settings than the test's, the rest as for a Writer."""
    writers: list[Writer] = []

    def make(jobs: int = 1, *, of: Settings = settings, **options: Any) -> Writer:
        writers.append(Writer(engine, of, jobs, **options))
        return writers[-1]

    yield make
    for writer in writers:
        writer.close()


@pytest.fixture
def writer(make_writer: Callable[..., Writer]) -> Writer:
    """Of three jobs."""
    return make_writer(3)


@pytest.fixture
def token(settings: Settings) -> str:
    """The owner's, for everything."""
    return issue_token(settings, OWNER)


@pytest.fixture
def ticket(settings: Settings, writer: Writer, token: str) -> str:
    """For reading the writer's batch."""
    return issue_ticket(settings, verify_token(settings, token), writer.batch_id)[0]


@pytest.fixture
def path(writer: Writer, ticket: str) -> str:
    """Where the stream of the writer's batch is, for somebody who sends no headers."""
    return f"/api/batches/{writer.batch_id}/stream?ticket={ticket}"


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    """Of a stream service; where a module is about another, it has a fixture of its own by this name."""
    with stream_thread(settings) as (address, _):
        yield address


@pytest.fixture(scope="module")
def server(
    clone: Callable[..., AbstractContextManager[str]], redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Of a stream service for all tests of a module that need no batches, as it takes a while: address and token."""
    with lone_server(clone, redis_url, tmp_path_factory.mktemp("uploads")) as server:
        yield server


@pytest.fixture
def anna(address: str, settings: Settings) -> Iterator[httpx.Client]:
    """The owner, who asks there."""
    with client(address, settings) as anna:
        yield anna
