"""The stack of compose.yaml on a Docker engine, under a name of its own, with an .env and a certificate of its own."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from random import SystemRandom
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from infra.dotenv import read
from shared.database import make_engine
from shared.settings import Settings, load_settings
from tests.support.batches import wait_for
from tests.support.go_tools import COMPOSE, go_tool
from tests.support.needs import needs, program
from tests.support.ports import own_port

ROOT = Path(__file__).parents[2]
SERVICES = ("gateway", "api", "stream", "worker", "postgres", "redis")
IMAGES = ("api", "stream", "worker", "migrate", "cli")

_BUILD = 900
_UP = 240
_ANSWER = 120
"""Seconds for one command."""


@cache
def compose_command() -> tuple[str, ...]:
    """The plugin, or the older program."""
    needs("Docker engine", there=docker("info", check=False).returncode == 0)
    if docker("compose", "version", check=False).returncode == 0:
        return (program("docker"), "compose")
    return (program("docker-compose"),)


def compose_plugin(folder: Path) -> tuple[str, ...]:
    """`docker compose` by a plugin that the tests have built. `folder`: becomes Docker's configuration."""
    needs("Docker engine", there=docker("info", check=False).returncode == 0)
    (folder / "cli-plugins").mkdir(parents=True)
    (folder / "cli-plugins" / "docker-compose").symlink_to(go_tool(COMPOSE.module))
    return (program("docker"), "--config", str(folder), "compose")


def docker(*arguments: str, check: bool = True, seconds: float = _ANSWER) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [program("docker"), *arguments], capture_output=True, text=True, errors="replace", check=False, timeout=seconds
    )
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done


def _run(command: list[str], folder: Path, seconds: float, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Without this process's environment, which would be stronger than the stack's .env."""
    return subprocess.run(
        command,
        cwd=folder,
        env=_bare(),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
        input=typed,
    )


class Container:
    """One of the stack, as it was when it was looked for."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.id: str = about["Id"]
        self.service: str = about["Config"]["Labels"]["com.docker.compose.service"]
        self.about = about

    def __str__(self) -> str:
        return f"{self.about['Name'].lstrip('/')}"

    @property
    def healthy(self) -> bool:
        return self.state["Status"] == "running" and self.state.get("Health", {}).get("Status") == "healthy"

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.about["State"]
        return state

    @property
    def label(self) -> str:
        """The version that its image says it is."""
        return str(self.about["Config"]["Labels"].get("org.opencontainers.image.version"))

    def address(self, network: str) -> str:
        return str(self.about["NetworkSettings"]["Networks"][network]["IPAddress"])

    def run(self, *command: str, user: str = "", check: bool = True) -> str:
        """What a command in it prints."""
        options = ["--user", user] if user else []
        return docker("exec", *options, self.id, *command, check=check).stdout


class Stack:
    """`build`, `up`, `down`. Its images have tags that begin with `project`."""

    def __init__(self, directory: Path, command: tuple[str, ...] = (), **settings: str) -> None:
        """`command`: of compose, if it is not to be `compose_command()`. `settings`: what else is to stand in .env."""
        port = own_port()
        self.project = f"headway-test-{uuid4().hex[:8]}"
        self.address = f"https://127.0.0.1:{port}"
        self.certificates = directory / "certificates"
        self.tags: list[str] = []
        self._compose = command or compose_command()
        self._env = directory / "env"
        self._followers: dict[str, tuple[str, Path, subprocess.Popen[bytes]]] = {}
        self._directory = directory
        self._given = {
            "GATEWAY_ADDRESS": "127.0.0.1",
            "GATEWAY_HTTP_PORT": str(own_port()),
            "GATEWAY_HTTPS_PORT": str(port),
            "HEADWAY_PUBLIC_URL": self.address,
            "BACKEND_SUBNET": _subnet(),
            "CERTIFICATES": str(self.certificates),
            **settings,
        }

    def prepare(self) -> None:
        """As an operator does: `make env`."""
        self._env.write_text("".join(f"{name}={value}\n" for name, value in self._given.items()))
        command = [shutil.which("python3") or "python3", "-m", "infra.dotenv", "--file", str(self._env)]
        command += ["--certificates", str(self.certificates)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=60, stdout=subprocess.DEVNULL)

    @property
    def env(self) -> dict[str, str]:
        return read(self._env.read_text())

    def tag(self, name: str) -> None:
        """The images that are meant from now on."""
        tag = f"{self.project}-{name}"
        text = [line for line in self._env.read_text().splitlines() if not line.startswith("TAG=")]
        self._env.write_text("\n".join([*text, f"TAG={tag}", ""]))
        self.tags.append(tag)

    def compose(self, *arguments: str, seconds: float = _ANSWER, check: bool = True) -> str:
        """What the command printed."""
        done = _run([*self._command(), "--profile", "tools", *arguments], ROOT, seconds)
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def script(self, text: str, folder: Path, seconds: float = _UP) -> None:
        """Runs what a document tells to type, in `folder`: `docker compose` is this stack's.

        Line by line from its standard input, where a command that reads that swallows those that follow.
        """
        command = shlex.join([*self._command(), "--project-directory", str(ROOT), "-f", str(ROOT / "compose.yaml")])
        typed = text.replace("docker compose", command) + "\necho all of it was run\n"
        done = _run([program("bash"), "-euo", "pipefail"], folder, seconds, typed)
        assert done.returncode == 0, f"{text}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        assert done.stdout.endswith("all of it was run\n"), f"{text}: {done.stdout[-3000:]}{done.stderr[-3000:]}"

    def _command(self) -> list[str]:
        return [*self._compose, "--env-file", str(self._env), "-p", self.project]

    def build(self) -> None:
        self.compose("build", seconds=_BUILD)

    def up(self) -> None:
        """Returns once all is healthy."""
        self.compose("up", "-d", *SERVICES, seconds=_UP)
        self.settle()

    def settle(self) -> None:
        """Returns once all that was started is healthy."""
        self.follow()
        wait_for(self.healthy, "all containers to be healthy", _UP)

    def down(self) -> None:
        """Whatever of it there is, images included."""
        if "engine" in vars(self):  # where the last test, which does this as well, was not run
            self.engine.dispose()
        self.compose("down", "--volumes", "--remove-orphans", "-t", "2", seconds=_UP)
        for _, _, follower in self._followers.values():
            follower.wait(_ANSWER)
        for tag in self.tags:
            docker("image", "rm", "-f", *(f"headway-{image}:{tag}" for image in IMAGES), check=False)

    def left(self) -> dict[str, list[str]]:
        """Ids of all that compose has made of it, by what it is."""
        listed = {"container": ["ps", "-aq"], "network": ["network", "ls", "-q"], "volume": ["volume", "ls", "-q"]}
        label = f"label=com.docker.compose.project={self.project}"
        return {kind: docker(*command, "--filter", label).stdout.split() for kind, command in listed.items()}

    def containers(self, *services: str) -> list[Container]:
        """Those that there are, running or not; the oldest first."""
        listed = docker("ps", "-aq", "--no-trunc", "--filter", f"label=com.docker.compose.project={self.project}")
        if not listed.stdout.split():
            return []
        # one that goes meanwhile is not told of
        told = docker("inspect", *listed.stdout.split(), check=False).stdout
        found = sorted(map(Container, json.loads(told)), key=lambda container: container.about["Created"])
        return [container for container in found if not services or container.service in services]

    def follow(self) -> None:
        """From now on what containers say is kept, also of those that go."""
        for container in self.containers():
            known = self._followers.get(container.id)
            # who has stopped and was started again tells all of it once more
            if known is None or known[2].poll() is not None:
                file = self._directory / f"{container}-{container.id[:12]}.log"
                with file.open("wb") as log:
                    follower = subprocess.Popen(
                        [program("docker"), "logs", "--follow", container.id], stdout=log, stderr=subprocess.STDOUT
                    )
                self._followers[container.id] = (container.service, file, follower)

    def said(self) -> dict[str, list[str]]:
        """By service: all lines of all containers that were ever followed. To be asked once they have ended."""
        self.follow()
        lines: dict[str, list[str]] = {}
        for service, file, follower in self._followers.values():
            follower.wait(_ANSWER)
            lines.setdefault(service, []).extend(file.read_text(errors="replace").splitlines())
        return lines

    def healthy(self) -> bool:
        found = self.containers(*SERVICES)
        return {container.service for container in found} == set(SERVICES) and all(map(_healthy, found))

    @cached_property
    def settings(self) -> Settings:
        """Of its services, as this machine reaches the servers: by their own addresses."""
        (postgres,), (redis,) = self.containers("postgres"), self.containers("redis")
        env, network = self.env, f"{self.project}_data"
        return load_settings(
            {name: value for name, value in env.items() if name.startswith("HEADWAY_")}
            | {
                "DATABASE_URL": f"postgresql://headway:{env['POSTGRES_PASSWORD']}@{postgres.address(network)}/headway",
                "REDIS_URL": f"redis://:{env['REDIS_PASSWORD']}@{redis.address(network)}/0",
            }
        )

    @cached_property
    def engine(self) -> sa.Engine:
        return make_engine(self.settings.database_url, pool_size=4, application="a test")


def _healthy(container: Container) -> bool:
    return container.healthy


def _bare() -> Mapping[str, str]:
    """Of our environment only what Docker needs: all else is to come from the .env."""
    kept = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_BUILDKIT", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _subnet() -> str:
    """One that no network of the engine has."""
    there = docker("network", "ls", "-q").stdout.split()
    taken = docker("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", *there).stdout
    free = [f"10.{second}.{third}.0/24" for second in range(200, 250) for third in range(256)]
    return SystemRandom().choice([subnet for subnet in free if subnet not in taken])
