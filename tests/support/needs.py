"""What a test needs from the machine: where it is missing the test is skipped; in CI, where all has to be, it fails."""

import os
import shutil

import pytest


def needs(what: str, *, there: bool) -> None:
    if not there:
        why = f"there is no {what} here"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)


def program(name: str) -> str:
    """Its path."""
    path = shutil.which(name)
    needs(name, there=path is not None)
    return str(path)
