"""A directory for files that cannot be used stops the start with a sentence, in every service that needs one."""

import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from shared.settings import Settings
from tests.support.ports import own_port
from tests.support.processes import environment


@pytest.mark.parametrize("command", ["services.api", "services.worker --queue default", "infra.workers", "infra.web"])
def test_it_is_named(command: str, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "uploads"
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        env=environment(structs.replace(settings, uploads=place, port=own_port())),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (2, f"HEADWAY_UPLOADS: {place} cannot be made: Not a directory\n")


def test_api_wants_to_write_there(settings: Settings) -> None:
    """Whoever runs the tests may be root, who may write anywhere but to what is no disk at all."""
    place = Path("/proc/self")
    done = subprocess.run(
        [sys.executable, "-m", "services.api"],
        env=environment(structs.replace(settings, uploads=place, port=own_port())),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (2, f"HEADWAY_UPLOADS: {place} may not be written to by this user\n")
