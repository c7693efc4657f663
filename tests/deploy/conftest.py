"""One stack for all tests here: its images are built, it is brought up once, and all of it is removed in the end.

Chromium is the one of tests/browser.
"""

from collections.abc import Iterator

import pytest

from tests.browser.conftest import chromium  # a fixture
from tests.support.stack import Stack, compose_command

__all__ = ["built", "chromium", "stack"]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The images are there, and nothing runs."""
    compose_command()
    # leases that are over soon after a kill, and a heartbeat that viewers live to hear
    stack = Stack(tmp_path_factory.mktemp("stack"), HEADWAY_LEASE="3", HEADWAY_HEARTBEAT="2")
    stack.prepare()
    stack.tag("old")
    try:
        stack.build()
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="session")
def stack(built: Stack) -> Stack:
    """It runs, and all of it is healthy."""
    built.up()
    return built
