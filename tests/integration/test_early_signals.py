"""SIGTERM to a process that has only just begun: as process 1 of a container it would not hear it without a handler."""

import os
import subprocess
import sys

import pytest

MODULES = {"services.api": 0, "services.stream": 0, "infra.workers": 0, "infra.migrations": 143}
HEAVY = ("sqlalchemy", "msgspec", "structlog")


@pytest.mark.parametrize("module", MODULES)
def test_is_heard_before_anything_heavy_is_loaded(module: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", module],
        env={**os.environ, "DATABASE_URL": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        loaded = []
        while not loaded or not loaded[-1].endswith("shared.signals"):
            loaded.append(next(process.stderr).rstrip())
        next(process.stderr)  # it goes on, so the handler stands
        process.terminate()
        _, rest = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == MODULES[module], rest
    assert not [line for line in loaded if line.endswith(HEAVY)]
