"""Each image by itself: what is in it, as whom it runs, and that it leaves when it is told to."""

import json
import time
import tomllib

import pytest

from tests.support.stack import IMAGES, ROOT, Stack, docker

pytestmark = pytest.mark.timeout(1200)  # the first one builds them

MODULES = {
    "api": "services.api.__main__",
    "stream": "services.stream.__main__",
    "worker": "infra.workers.__main__, services.worker.__main__",
    "migrate": "infra.migrations.__main__",
    "cli": "infra.cli.main",
}
OTHERS = {
    "api": ["services.stream", "services.worker", "infra.cli", "onnxruntime", "alembic"],
    "stream": ["services.api", "services.worker", "infra.cli", "dramatiq", "onnxruntime", "alembic"],
    "worker": ["services.api", "services.stream", "infra.cli", "litestar", "alembic"],
    "migrate": ["services.api", "infra.cli", "litestar", "dramatiq"],
    "cli": ["services.api", "services.stream", "litestar", "dramatiq", "onnxruntime"],
}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
_COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "tcc", "ld", "make")
_SETTINGS = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none",
    "REDIS_URL": "redis://127.0.0.1:9/0",
    "HEADWAY_SECRET": "s" * 40,
    "HEADWAY_TICKET_KEY": "t" * 40,
}


def run(stack: Stack, image: str, *command: str, root: bool = False, read_only: bool = True) -> str:
    """What a command prints in a fresh container, with nothing to write to but /tmp."""
    options = ["--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"]  # noqa: S108
    options += ["--user", "0"] if root else []
    options += ["--read-only"] if read_only else []
    name = f"headway-{image}:{stack.tags[0]}"
    return docker("run", "--rm", *options, "--entrypoint", command[0], name, *command[1:]).stdout


@pytest.mark.parametrize("image", IMAGES)
def test_holds_what_it_runs_and_nothing_of_the_others(built: Stack, image: str) -> None:
    assert run(built, image, "python", "-c", f"import {MODULES[image]}; print('loaded')") == "loaded\n"
    look = f"from importlib.util import find_spec; print([name for name in {OTHERS[image]} if _there(name)])"
    helper = (
        "def _there(name):\n"
        "    try:\n        return find_spec(name) is not None\n    except ModuleNotFoundError:\n        return False\n"
    )
    first, _, second = look.partition("; ")
    assert run(built, image, "python", "-c", f"{first}\n{helper}{second}") == "[]\n"


@pytest.mark.parametrize("image", IMAGES)
def test_runs_as_nobody_in_particular_and_has_no_compiler(built: Stack, image: str) -> None:
    assert run(built, image, "id", "-u") == "10001\n"
    assert run(built, image, "id", "-g") == "10001\n"
    found = run(
        built, image, "sh", "-c", f"for name in {' '.join(_COMPILERS)}; do command -v $name; done; true", root=True
    )
    assert found == ""
    assert run(built, image, "sh", "-c", "ls /opt/venv/bin | grep -i pip || true") == ""
    search = "(find / -xdev -type f -writable; find /app /opt /usr /etc -xdev -type d -writable) 2>/dev/null || true"
    assert run(built, image, "sh", "-c", search, read_only=False) == "", "its user may change these"


@pytest.mark.parametrize("image", IMAGES)
def test_says_what_it_is_and_holds_no_secret(built: Stack, image: str) -> None:
    name = f"headway-{image}:{built.tags[0]}"
    (about,) = json.loads(docker("image", "inspect", name).stdout)
    assert about["Config"]["Labels"]["org.opencontainers.image.title"] == f"headway-{image}"
    assert about["Config"]["Labels"]["org.opencontainers.image.version"] == built.tags[0]
    assert ("Healthcheck" in about["Config"]) == (image in {"api", "stream", "worker"})
    everything = json.dumps(about) + docker("history", "--no-trunc", name).stdout
    for variable in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "HEADWAY_SECRET", "HEADWAY_TICKET_KEY"):
        assert built.env[variable] not in everything
    assert run(built, image, "sh", "-c", "find /app -name '.env*' -o -name '*.pem' -o -name .git") == ""


@pytest.mark.parametrize("image", IMAGES)
def test_knows_the_version_of_its_code(built: Stack, image: str) -> None:
    ask = "from importlib.metadata import version; print(version('headway'))"
    assert run(built, image, "python", "-c", ask).strip() == VERSION
    if image == "worker":  # what it tells `headway workers`
        ask = "from services.worker.registry import own_version; print(own_version())"
        assert run(built, image, "python", "-c", ask).strip() == VERSION


def test_the_command_is_called_by_its_name(built: Stack) -> None:
    """By compose, which gives it arguments alone, and by who looks around in the container."""
    name = f"headway-cli:{built.tags[0]}"
    for said in (
        docker("run", "--rm", name, "token", "--help").stdout,
        run(built, "cli", "headway", "token", "--help"),
    ):
        assert "Usage: headway token " in said


@pytest.mark.parametrize("image", ["api", "stream", "worker"])
def test_leaves_within_seconds_when_told_although_no_server_is_there(built: Stack, image: str) -> None:
    """As process 1, for which signals have no default."""
    options = [word for name, value in _SETTINGS.items() for word in ("--env", f"{name}={value}")]
    options += ["--read-only", "--tmpfs", "/tmp", "--network", "none"]  # noqa: S108
    options += ["--volume", "/var/lib/headway/uploads"]
    container = docker("run", "--detach", *options, f"headway-{image}:{built.tags[0]}").stdout.strip()
    try:
        await_answer(container)
        began = time.monotonic()
        docker("stop", "--time", "40", container)
        assert time.monotonic() - began < 30
        (about,) = json.loads(docker("inspect", container).stdout)
        assert about["State"]["ExitCode"] == 0, docker("logs", container, check=False).stderr[-3000:]
    finally:
        docker("rm", "--force", "--volumes", container, check=False)


def test_traces_if_it_is_built_for_that(built: Stack) -> None:
    traced = f"headway-stream:{built.tags[0]}-traced"
    load = ("python", "-c", "import shared.tracing, opentelemetry.sdk.trace.export; print('loaded')")
    docker("build", "--build-arg", "TRACING=yes", "--target", "stream", "--tag", traced, str(ROOT), seconds=600)
    try:
        assert docker("run", "--rm", traced, *load).stdout == "loaded\n"
    finally:
        docker("image", "rm", "--force", traced, check=False)
    assert docker("run", "--rm", f"headway-stream:{built.tags[0]}", *load, check=False).returncode != 0


def test_orphans_of_a_worker_are_buried(built: Stack) -> None:
    """A process that lost its parent becomes that of process 1."""
    options = [word for name, value in _SETTINGS.items() for word in ("--env", f"{name}={value}")]
    container = docker(
        "run", "--detach", *options, "--network", "none", f"headway-worker:{built.tags[0]}"
    ).stdout.strip()
    try:
        await_answer(container)
        docker("exec", container, "sh", "-c", "(sleep 0.2 &) ; exit 0")
        orphans = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c '(sleep)' || true"
        until = time.monotonic() + 30
        while docker("exec", container, "sh", "-c", orphans).stdout.strip() != "0":
            assert time.monotonic() < until, "a zombie stays"
            time.sleep(0.2)
    finally:
        docker("rm", "--force", container, check=False)


def await_answer(container: str) -> None:
    """Until what runs in it answers: not ready, because there is no PostgreSQL, but alive."""
    ask = (
        "import socket\n"
        "with socket.create_connection(('127.0.0.1', 8000), 2) as s:\n"
        "    s.sendall(b'GET /health/live HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n"
        "    assert b' 200 ' in s.recv(64)\n"
    )
    until = time.monotonic() + 60
    while docker("exec", container, "python", "-I", "-S", "-c", ask, check=False).returncode != 0:
        assert time.monotonic() < until, docker("logs", container, check=False).stderr[-3000:]
        time.sleep(0.2)
