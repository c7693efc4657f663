"""docs/handlers.md: its code, as printed, written into files, tested, installed, and run by a real api and worker."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from msgspec import structs

from shared.settings import Settings
from shared.updates import Job, Log
from tests.support.batches import job_rows, wait_finished, wait_for
from tests.support.engines import docker_engine
from tests.support.handlers import driven
from tests.support.plugged import install
from tests.support.ports import own_port
from tests.support.processes import service
from tests.support.web import client, decoded, submit
from tests.support.working import kind_of, working
from tests.support.working import submit as submit_to

DOCUMENT = Path(__file__).parents[2] / "docs" / "handlers.md"

_BLOCK = re.compile(r"^```(?:python|toml)\n# (?P<path>\S+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    place = tmp_path / "installed"
    blocks = list(_BLOCK.finditer(DOCUMENT.read_text()))
    assert {block["path"] for block in blocks} >= {"words/kinds.py", "words/handlers.py", "pyproject.toml"}
    for block in blocks:
        path = place / block["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block["text"])
    (place / "words" / "__init__.py").touch()
    return place


@pytest.fixture
def installed(package: Path) -> dict[str, str]:
    """What finds it, in an environment; as an installer reads pyproject.toml."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    return install(package, project["name"], project["entry-points"])


@pytest.fixture
def words(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports a module of the package here."""
    monkeypatch.syspath_prepend(str(package))
    yield lambda module: import_module(f"words.{module}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "words"]:
        del sys.modules[name]


def test_every_block_of_code_is_a_file() -> None:
    """Or it would not be run here."""
    text = DOCUMENT.read_text()
    assert len(_BLOCK.findall(text)) == text.count("\n```python\n") + text.count("\n```toml\n")


@pytest.mark.usefixtures("installed")
def test_its_test_passes(package: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(package), "test_words.py"],
        cwd=package,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(DOCUMENT.parents[1])])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_it_runs_once_it_is_installed(
    settings: Settings, engine: Any, installed: dict[str, str], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    settings = structs.replace(settings, port=own_port())
    address = f"http://127.0.0.1:{settings.port}"
    worker = ("services.worker", "--queue", "words", "--ready-file", str(ready))
    with (
        service(*worker, settings=settings, more=installed) as process,
        service("services.api", settings=settings, more=installed) as server,
        client(address, settings) as anna,
    ):
        wait_for(lambda: ready.exists() or process.poll() is not None, "the worker", 60)
        wait_for(lambda: _answers(address) or server.poll() is not None, "the api", 60)
        (kind,) = (kind for kind in anna.get("/api/kinds").json()["items"] if kind["kind"] == "words.count")
        assert (kind["title"], kind["maxAttempts"], kind["timeLimitSeconds"]) == ("Count words", 5, 120)
        body = {"kind": "words.count", "title": "Letters"}
        wrong = anna.post("/api/batches", json={**body, "jobs": [{"name": "a", "params": {"texts": []}}]})
        assert wrong.json()["errors"][0]["path"] == "jobs[0].params.texts"
        batch = submit(anna, {**body, "jobs": [{"name": "a", "params": {"texts": ["one two", "", "three"]}}]})
        wait_for(lambda: anna.get(f"/api/batches/{batch['batchId']}").json()["finishedAt"], "its end", 60)
        (job,) = anna.get(f"/api/batches/{batch['batchId']}/jobs").json()["items"]
        found = decoded(anna.get(f"/api/jobs/{job['id']}"))
    assert (found["status"], found["result"]["words"], found["metadata"]) == ("COMPLETED", 3, {"longest": 2})
    assert found["items"] == {"done": 2, "failed": 1, "total": 3}


def test_a_command_tells_how_far_it_is(settings: Settings, engine: Any, words: Callable[[str], Any]) -> None:
    convert = words("conversion").convert
    batch_id = submit_to(engine, settings, 1, kind_of(convert))
    with working(settings, convert, time_limit=60):
        wait_finished(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    assert (job.status, job.result) == ("COMPLETED", 3)


def test_a_container_leaves_what_it_made(words: Callable[[str], Any], tmp_path: Path) -> None:
    rendering = words("rendering")
    with docker_engine(rendering.IMAGE):
        job = Job(uuid4(), uuid4(), owner="anna", name="page", attempt=1, uploads=tmp_path, scratch=tmp_path / "job")
        assert driven(rendering.render(None, job)) == ([Log("rendering")], "four words, on paper")


def test_a_copy_goes_on_where_it_stopped(settings: Settings, engine: Any, words: Callable[[str], Any]) -> None:
    copy = words("copying").copy
    batch_id = submit_to(engine, settings, 1, kind_of(copy))
    with working(settings, copy, max_attempts=3, time_limit=60):
        wait_finished(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    assert (job.status, job.attempt, job.result) == ("COMPLETED", 2, 6)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/ready", trust_env=False).is_success
    except httpx.TransportError:
        return False
