"""The code of before the newest migration, and its services as processes beside those of now."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
from msgspec import Struct, structs

from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.needs import needs, program
from tests.support.ports import own_port
from tests.support.processes import environment, service
from tests.support.streams import status
from tests.support.web import client

ROOT = Path(__file__).parents[2]
_VERSIONS = ROOT / "infra/migrations/versions"
_CODE = ("infra", "services", "shared")
_START = 90
"""Seconds: six processes begin at once."""


class Version(Struct):
    """The services of one version, all on the same database and Redis."""

    api: httpx.Client
    stream: str
    worker: subprocess.Popen[bytes]
    processes: list[subprocess.Popen[bytes]]


def code_before_the_newest_migration(place: Path) -> Path:
    """In `place`, as it was committed. A newest migration that is not committed yet: the code of the last commit."""
    git = program("git")
    newest = max(_VERSIONS.glob("[0-9]*.py")).relative_to(ROOT)

    def ask(*arguments: str) -> str:
        done = subprocess.run([git, "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    added = ask("log", "--diff-filter=A", "--format=%H", "--", str(newest)).split()
    commit = ask("rev-parse", "--verify", "--quiet", f"{added[-1]}^" if added else "HEAD")
    needs("history of the repository, as far back as the newest migration", there=bool(commit))
    place.mkdir()
    archive = subprocess.run([git, "-C", ROOT, "archive", commit, *_CODE], capture_output=True, check=True)
    subprocess.run([program("tar"), "-x", "-C", place], input=archive.stdout, check=True)
    return place


@contextmanager
def beside_each_other(settings: Settings, code: Path, place: Path) -> Iterator[tuple[Version, Version]]:
    """The services of `code`, and those of now."""
    with ExitStack() as stack:
        started = [
            _start(stack, settings, place / "ready-older", _within(code, settings)),
            _start(stack, settings, place / "ready-newer", []),
        ]
        for version, ready in started:
            wait_for(partial(_at_work, version, ready), "the services of both versions", _START)
        yield started[0][0], started[1][0]


def _at_work(version: Version, ready: Path) -> bool:
    assert all(process.poll() is None for process in version.processes), "a service did not start"
    addresses = str(version.api.base_url), version.stream
    return ready.exists() and all(status(address, "/health/ready") == 200 for address in addresses)


def _start(stack: ExitStack, settings: Settings, ready: Path, within: list[str]) -> tuple[Version, Path]:
    processes, addresses = [], []
    for module in ("services.api", "services.stream"):
        its = structs.replace(settings, port=own_port())
        processes.append(stack.enter_context(service(module, settings=its, within=within)))
        addresses.append(f"http://127.0.0.1:{its.port}")
    arguments = ("--queue", "default", "--ready-file", str(ready))
    keys = environment(settings) if within else {}  # workers of the version before want them
    worker = stack.enter_context(service("services.worker", *arguments, settings=settings, more=keys, within=within))
    api = stack.enter_context(client(addresses[0], settings))
    return Version(api, addresses[1], worker, [*processes, worker]), ready


def _within(code: Path, settings: Settings) -> list[str]:
    """A command that starts another one there, without the settings that were not there yet."""
    asked = "from shared.settings import variables; print(*variables())"
    known = subprocess.run([sys.executable, "-c", asked], cwd=code, capture_output=True, text=True, check=True)
    unknown = set(environment(settings)) - set(known.stdout.split()) - set(os.environ)
    return [program("env"), "-C", str(code), *(f"--unset={name}" for name in sorted(unknown))]
