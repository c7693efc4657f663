"""`docker compose` itself, with which README.md begins. The tests beside take the older program if it is all there is.

It reads the same files, in its own way: it builds with BuildKit, and hands its standard input to what it runs.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import Document
from tests.support.stack import Stack, compose_plugin

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Stack]:
    """Only .env and the certificate are there."""
    stack = Stack(tmp_path, compose_plugin(tmp_path / "docker"))
    stack.prepare()
    stack.tag("plugin")
    try:
        yield stack
    finally:
        stack.down()


def test_builds_and_starts_it_saves_and_restores_it_and_takes_it_down(installation: Stack, tmp_path: Path) -> None:
    backup, restore = re.findall(r"(?s)```sh\n(.*?)```", Document("deployment.md").section("Backup"))
    installation.script('test -z "$(docker compose config -q 2>&1)"  # no warning', tmp_path)
    installation.script("docker compose up -d --build", tmp_path, seconds=1000)
    installation.settle()
    installation.script(backup, tmp_path)
    installation.script(restore, tmp_path)
    installation.settle()
    assert "checks passed" in installation.compose("run", "--rm", "-T", "cli", "smoke", seconds=300)
    installation.down()
    assert not any(installation.left().values())
