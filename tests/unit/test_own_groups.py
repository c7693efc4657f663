"""Each service runs with the packages of its own group and the code that its image holds: tests/deploy says the same of
the images themselves.
"""

from pathlib import Path

import pytest

from tests.support.own_group import OwnGroup, packages

# Every module of these is loaded, also what is imported late.
PARTS = {
    "api": ["services.api"],
    "stream": ["services.stream"],
    "worker": ["services.worker", "infra.workers"],
    "migrate": ["infra.migrations"],
    "cli": ["infra.cli", "infra.migrations"],
}
# Loaded only by Alembic, by whoever runs servers of its own, or where a service is as well.
ELSEWHERE = {
    "infra.migrations.env",
    "infra.cli.services",
}

_LOAD_ALL = """
import importlib, pkgutil
for part in {parts}:
    package = importlib.import_module(part)
    for module in pkgutil.walk_packages(package.__path__, part + "."):
        if module.name not in {elsewhere}:
            importlib.import_module(module.name)
            print(module.name)
"""


@pytest.mark.parametrize("image", PARTS)
def test_loads_with_its_own_group_only(image: str, tmp_path: Path) -> None:
    own = OwnGroup(image, tmp_path)
    loaded = own.run(_LOAD_ALL.format(parts=PARTS[image], elsewhere=ELSEWHERE))
    assert loaded.returncode == 0, loaded.stderr[-3000:]
    assert all(any(line.startswith(part) for line in loaded.stdout.splitlines()) for part in PARTS[image])


def test_finds_nothing_of_other_groups(tmp_path: Path) -> None:
    """So the test above can fail."""
    own = OwnGroup("stream", tmp_path)
    for module in ("dramatiq", "onnxruntime", "alembic", "typer", "services.api", "services.worker", "infra.cli"):
        missing = own.run(f"import {module}")
        assert missing.returncode == 1, module
        assert "ModuleNotFoundError" in missing.stderr


def test_groups_differ() -> None:
    groups = {image: set(packages(image)) for image in PARTS}
    assert "litestar" in groups["api"] & groups["stream"]
    assert not {"litestar", "uvicorn", "alembic", "typer"} & groups["worker"]
    assert not {"dramatiq", "onnxruntime", "docker", "alembic", "typer"} & groups["stream"]
    assert "alembic" in groups["migrate"] & groups["cli"]
