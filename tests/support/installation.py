"""A whole installation of real processes, each of which may be killed or frozen, and comes back as what it was."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

from msgspec import structs

from infra.embedded.postgres import Postgres
from infra.embedded.server import Server
from infra.embedded.valkey import Valkey
from infra.migrations.migrate import migrate
from shared.database import make_engine
from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.ports import own_port
from tests.support.processes import environment
from tests.support.small_postgres import SmallPostgres
from tests.support.streams import status

_READY_SECONDS = 90
_numbers = count(1)

MakePostgres = Callable[[Path], Postgres | SmallPostgres]
More = Callable[[str], Mapping[str, str]]
"""What a service of that name finds in its environment besides the settings."""


class Part:
    """Something that runs: `start` and `kill` it as often as you like; `freeze` and `thaw` stop and continue it."""

    def start(self) -> None:
        """It is on its way; `await_ready` waits until it does its work."""
        raise NotImplementedError

    def await_ready(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL; it is gone afterwards."""
        raise NotImplementedError

    def pids(self) -> list[int]:
        raise NotImplementedError

    def freeze(self) -> None:
        for pid in self.pids():
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self.pids():
            _signal(pid, signal.SIGCONT)


class Service(Part):
    """One of ours. It does its work once it `answers`; `ready` is the file by which it says so, if it has one."""

    def __init__(
        self,
        settings: Settings,
        log: Path,
        *command: str,
        answers: Callable[[], bool],
        ready: Path | None = None,
        more: More | None = None,
        errors: Path | None = None,
    ) -> None:
        self.name = log.stem
        self.log = log
        """What it said, in all its lives."""
        self.log.touch()
        self._errors = errors or log
        self._environment = environment(settings) | dict(more(self.name) if more else {})
        self._command = command
        self._answers = answers
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._ready is not None:
            self._ready.unlink(missing_ok=True)
        with self._errors.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command], env=self._environment, stdout=log, stderr=log
            )

    def await_ready(self) -> None:
        wait_for(lambda: not self.alive() or self._answers(), f"{self._command[0]} to answer", _READY_SECONDS)
        assert self.alive(), self.log.read_text()[-2000:]

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, seconds: float = 20) -> int:
        """Asks it to leave; its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(seconds)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def pids(self) -> list[int]:
        return [self._process.pid] if self._process is not None and self._process.poll() is None else []


class Store(Part):
    """An embedded server."""

    def __init__(self, server: Server | SmallPostgres) -> None:
        self.server = server

    def start(self) -> None:
        self.server.start()

    def await_ready(self) -> None:
        """It is ready once it has been started."""

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Asks it to end in one of its ways, and waits for it."""
        os.kill(self.server.pid, how)
        wait_for(lambda: not self.server.alive(), f"{self.server.name} to end", 30)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def pids(self) -> list[int]:
        """PostgreSQL's main process first: it makes no others while it is frozen."""
        return [self.server.pid, *_children(self.server.pid)]


class Installation:
    """PostgreSQL, Valkey, two workers, two streams, and an api if wanted; `engine` is for the test."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        postgres: Store | None,
        valkey: Store | None,
        *,
        with_api: bool,
        more: More | None,
        errors: Path | None,
    ) -> None:
        self.settings = settings
        self._more, self._errors = more, errors
        self.engine = make_engine(settings.database_url, pool_size=5, application="test", pooler=settings.pooler)
        self._postgres = postgres
        self._valkey = valkey
        self._directory = directory
        self.workers = [self._worker() for _ in range(2)]
        self._api = self._web("services.api") if with_api else None
        # one hands sockets over, and the other does not
        streams = [self._web(module) for module in ("services.stream", "tests.support.plain_stream")]
        self.streams = [service for service, _ in streams]
        self.addresses = [address for _, address in streams]
        """Of the streams."""

    @property
    def postgres(self) -> Store:
        assert self._postgres is not None, "this installation shares its PostgreSQL with others"
        return self._postgres

    @property
    def valkey(self) -> Store:
        assert self._valkey is not None, "this installation was given its Redis"
        return self._valkey

    @property
    def api(self) -> Service:
        assert self._api is not None, "this installation has no api"
        return self._api[0]

    @property
    def api_address(self) -> str:
        assert self._api is not None, "this installation has no api"
        return self._api[1]

    @property
    def services(self) -> list[Service]:
        return [*([] if self._api is None else [self.api]), *self.streams, *self.workers]

    def said(self) -> str:
        """By all services together."""
        return "".join(service.log.read_text() for service in self.services)

    def hire(self) -> None:
        """One more worker, who is at work afterwards."""
        worker = self._worker()
        self.workers.append(worker)
        worker.start()
        worker.await_ready()

    def _worker(self) -> Service:
        number = next(_numbers)
        ready = self._directory / f"ready-{number}"
        command = ("services.worker", "--queue", "default", "--ready-file", str(ready))
        log = self._directory / f"worker-{number}.log"

        return Service(
            self.settings, log, *command, answers=ready.exists, ready=ready, more=self._more, errors=self._errors
        )

    def _web(self, module: str) -> tuple[Service, str]:
        port = own_port()
        address = f"http://127.0.0.1:{port}"
        settings = structs.replace(self.settings, port=port)
        log = self._directory / f"{module}-{port}.log"
        answers = lambda: status(address, "/health/live") == 200  # noqa: E731
        return Service(settings, log, module, answers=answers, more=self._more, errors=self._errors), address


@contextmanager
def installed(
    settings: Settings,
    directory: Path,
    *,
    own_postgres: bool | MakePostgres = False,
    own_redis: bool = True,
    with_api: bool = False,
    more: More | None = None,
    errors: Path | None = None,
) -> Iterator[Installation]:
    """It runs; killed in the end. Without a PostgreSQL, or a Redis, of its own it uses that of the settings.

    `errors`: where services write what they say, if not to their logs.
    """
    with ExitStack() as stack:
        valkey = postgres = None
        if own_redis:
            server = Valkey(directory / "valkey", own_port())  # to which it comes back when it was killed
            stack.callback(server.stop)
            server.start()
            settings = structs.replace(settings, redis_url=server.url)
            valkey = Store(server)
        if own_postgres:
            where = directory / "postgres"
            postgres = Postgres(where, own_port()) if own_postgres is True else own_postgres(where)
            stack.callback(postgres.stop)
            postgres.start()
            migrate(postgres.url)
            settings = structs.replace(settings, database_url=postgres.url)
        store = None if postgres is None else Store(postgres)
        whole = Installation(settings, directory, store, valkey, with_api=with_api, more=more, errors=errors)
        stack.callback(whole.engine.dispose)
        stack.callback(_end, whole)
        for service in whole.services:
            service.start()
        for service in whole.services:
            service.await_ready()
        yield whole


def _end(whole: Installation) -> None:
    if whole._valkey is not None:
        whole._valkey.thaw()
    if whole._postgres is not None:
        whole._postgres.thaw()
    for service in whole.services:
        service.kill()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
