"""All parts of Headway on this machine, for `headway run`: what they are told, and in what order they come and go."""

import contextlib
import http.client
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event, Lock

from infra.cli.errors import CliError
from infra.embedded import ports
from infra.embedded.postgres import Postgres
from infra.embedded.valkey import Valkey
from infra.home import Home, Running
from infra.supervisor import EmbeddedServer, Keeper, Program, stop_all
from shared.kinds import QUEUES
from shared.settings import load_settings

DEFAULT_PORT = 8000

_READY_SECONDS = 60
_PATIENCE = 20.0
"""Seconds that each half of the parts has to end by itself."""
_LOG_BYTES = 8 * 2**20
"""A log larger than this is moved aside, over the one before."""

# A developer who presses Ctrl-C does not want to wait for jobs, which are given back and run again.
_DRAIN_GRACE = "1"

Say = Callable[[str], None]


class Stack:
    def __init__(self, home: Home, environment: Mapping[str, str], stop: Event, say: Say) -> None:
        """`stop` ends every waiting. Raises CliError, EmbeddedError and SettingsError."""
        self._home = home
        self._stop = stop
        self._say = say
        self._lock = Lock()
        self._servers: dict[str, Keeper] = {}
        self._programs: dict[str, list[Keeper]] = {}
        self._complete = False
        self._unwritten = False
        """run.json is not what it should be."""
        self.environment = {
            "HEADWAY_REHEARSAL": "unsafe",
            "HEADWAY_UPLOADS": str(home.uploads.resolve()),
            "HEADWAY_DRAIN_GRACE": _DRAIN_GRACE,
            **environment,
            **home.make_keys(environment),
        }
        embedded = {"DATABASE_URL": "postgresql:///", "REDIS_URL": "redis:///"}
        load_settings({**embedded, **self.environment})  # what is wrong is said before anything is started
        self.port = choose_port(environment)
        self.address = f"http://{ports.HOST}:{self.port}"
        self.environment["HEADWAY_PORT"] = str(self.port)
        self._use_detector()

    def start(self) -> None:
        """Returns when everything answers, or `stop` is set. Raises CliError; the caller stops what was started."""
        self._start_servers()
        if self._stop.is_set():
            return
        self._migrate()
        self._start_programs()
        self._await_ready()

    def stop(self, hurry: Event) -> None:
        """First those who still have something to say to the servers."""
        self._stop.set()
        stop_all([keeper for keepers in self._programs.values() for keeper in keepers], _PATIENCE, hurry)
        stop_all(list(self._servers.values()), _PATIENCE, hurry)

    def detector_built(self) -> None:
        """Workers of photographs begin to use it."""
        self._use_detector()
        for keeper in self._programs["worker"]:
            if isinstance(keeper.part, Program) and keeper.part.name == "worker photos":
                keeper.part.environment = dict(self.environment)
                keeper.renew()

    def workers_ready(self) -> bool:
        files = [keeper.part.ready_file for keeper in self._programs["worker"] if isinstance(keeper.part, Program)]
        return all(file is not None and file.exists() for file in files)

    def tidy(self) -> None:
        """To be called every few seconds: logs that are too long, and what could not be written before."""
        for path in self._home.logs.glob("*.log"):
            if path.stat().st_size > _LOG_BYTES:
                with contextlib.suppress(OSError):  # no space perhaps, and then all the more reason to go on
                    shutil.copy2(path, path.with_suffix(".log.1"))
                os.truncate(path, 0)  # its writer appends
        if self._unwritten:
            self._write_run()

    def _use_detector(self) -> None:
        if self._home.detector.exists():
            self.environment.setdefault("HEADWAY_DETECTOR", str(self._home.detector.resolve()))

    def _start_servers(self) -> None:
        home = self._home.path
        embedded = {
            "DATABASE_URL": ("postgres", lambda port: Postgres(home / "postgres", port)),
            "REDIS_URL": ("redis", lambda port: Valkey(home / "valkey", port)),
        }
        parts = {}
        for variable, (name, make) in embedded.items():
            if not self.environment.get(variable):
                parts[variable] = part = EmbeddedServer(make)
                self._servers[name] = self._keep(part)
        for keeper in self._servers.values():
            keeper.await_started()
            if keeper.failures:
                raise CliError(keeper.trouble)
        for variable, part in parts.items():
            self.environment[variable] = part.server.url

    def _migrate(self) -> None:
        import sqlalchemy as sa  # noqa: PLC0415  # heavy, and loaded while the servers start

        from infra.migrations.migrate import migrate  # noqa: PLC0415

        try:
            migrate(self.environment["DATABASE_URL"])
        except (sa.exc.OperationalError, ValueError) as error:
            raise CliError(f"The database cannot be used: {error}") from None

    def _start_programs(self) -> None:
        self._programs["web"] = [self._keep(self._program("web", ["-m", "infra.web"]))]
        self._programs["worker"] = []
        for queue in QUEUES:
            ready = self._home.path.resolve() / f"worker-{queue}.ready"
            arguments = ["-m", "services.worker", "--queue", queue, "--ready-file", str(ready)]
            self._programs["worker"].append(self._keep(self._program(f"worker {queue}", arguments, ready)))

    def _program(self, name: str, arguments: list[str], ready_file: Path | None = None) -> Program:
        log = self._home.logs.resolve() / f"{name.replace(' ', '-')}.log"
        return Program(name, arguments, dict(self.environment), log=log, ready_file=ready_file)

    def _keep(self, part: EmbeddedServer | Program) -> Keeper:
        keeper = Keeper(part, changed=self._write_run, say=self._tell)
        keeper.start()
        return keeper

    def _tell(self, sentence: str) -> None:
        # before all is ready, trouble ends the start and is said once, by whoever called it
        if self._complete:
            self._say(sentence)

    def _await_ready(self) -> None:
        until = time.monotonic() + _READY_SECONDS
        while not (self.workers_ready() and _answers(self.port)):
            for keeper in [*self._programs["web"], *self._programs["worker"]]:
                if keeper.failures and isinstance(keeper.part, Program) and keeper.part.log:
                    raise CliError(f"{keeper.trouble}. {_last_words(keeper.part.log)}")
            if time.monotonic() > until:
                raise CliError(f"Not everything answered within {_READY_SECONDS} s. The logs are in {self._home.logs}.")
            if self._stop.wait(0.03):
                return
        self._complete = True
        self._write_run()

    def _write_run(self) -> None:
        with self._lock:
            if not self._complete or self._stop.is_set():
                return
            programs = {name: [keeper.pid for keeper in keepers] for name, keepers in self._programs.items()}
            servers = {
                name: [self._servers[name].pid] if name in self._servers else [] for name in ("postgres", "redis")
            }
            running = {name: [pid for pid in pids if pid] for name, pids in {**programs, **servers}.items()}
            urls = self.environment["DATABASE_URL"], self.environment["REDIS_URL"]
            try:
                self._home.write_run(Running(self.address, *urls, running))
            except OSError as error:  # on a full disk as well everything is to be kept alive
                if not self._unwritten:
                    self._say(f"What runs cannot be written down: {error.strerror}. It is tried again.")
                self._unwritten = True
            else:
                self._unwritten = False


def choose_port(environment: Mapping[str, str]) -> int:
    """Raises EmbeddedError, a sentence, for one that was asked for and cannot be had."""
    wanted = environment.get("HEADWAY_PORT")
    if wanted:
        ports.check(int(wanted))
        return int(wanted)
    return DEFAULT_PORT if ports.is_free(DEFAULT_PORT) else ports.free_port()


def _answers(port: int) -> bool:
    """Whether api and stream do, and reach what they need."""
    # a stream of no batch, without a ticket: refused, but by the stream service itself
    stream = "/api/batches/00000000-0000-7000-8000-000000000000/stream"
    return all(
        _status(port, path) == status for path, status in (("/health/ready", 200), ("/api/kinds", 401), (stream, 401))
    )


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection(ports.HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _last_words(log: Path) -> str:
    text = log.read_bytes()[-2000:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"The end of {log}: {' | '.join(lines[-3:])}"
