"""Real servers for every test: one PostgreSQL and one Valkey per run, a cloned database and a namespace per test."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from infra.embedded.postgres import Postgres
from infra.embedded.valkey import Valkey
from infra.migrations.migrate import migrate
from shared.database import connect_url, make_engine
from shared.kit.children import stop_guard
from shared.settings import Settings
from tests.support.ports import own_port

pytest_plugins = ["tests.support.people"]

_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-wire", action="store_true", help="write tests/wire/*.json anew, from what is sent now")
    parser.addoption("--redis-away", type=float, default=15, metavar="SECONDS", help="for how long (test_standby.py)")


@pytest.fixture
def rewrite_wire(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--rewrite-wire"))


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """Set up before every other fixture, so torn down after all of them: by then all that they started has ended."""
    yield
    stop_guard()  # of commands that handlers ran here; it is there as long as the process
    children = [child for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()]
    commands = [Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ") for child in children]
    assert commands == [], "the tests left these running"


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server on which databases may be created: DATABASE_URL, or an embedded one."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    server = Postgres(tmp_path_factory.mktemp("postgres"), own_port(), durable=False)
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server: REDIS_URL, or an embedded one. Tests keep to their `namespace`."""
    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    server = Valkey(tmp_path_factory.mktemp("valkey"), own_port())
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Redis server of the test's own, which it may stop."""
    server = Valkey(tmp_path / "valkey", own_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    """The name of a migrated database; cloning it takes a tenth of what migrating does."""
    name = f"headway_template_{uuid4().hex[:12]}"
    _administer(server_url, "CREATE DATABASE {}", name)
    migrate(_with_database(server_url, name))
    yield name
    _drop(server_url, name)


@pytest.fixture(scope="session")
def clone(server_url: str, template: str) -> Callable[..., AbstractContextManager[str]]:
    """A copy of the migrated database, or of another to whose URL nobody is connected; for a `with`."""

    @contextmanager
    def clone(of: str | None = None) -> Iterator[str]:
        name = f"headway_test_{uuid4().hex[:12]}"
        source = connect_url(of).database or "" if of else template
        _administer(server_url, "CREATE DATABASE {} TEMPLATE {}", name, source)
        yield _with_database(server_url, name)
        _drop(server_url, name)

    return clone


@pytest.fixture
def database_url(clone: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    with clone() as url:
        yield url


@pytest.fixture
def namespace() -> str:
    """Put before every Redis name of this test."""
    return f"test{os.getpid()}-{next(_numbers)}:"


@pytest.fixture
def settings(database_url: str, redis_url: str, namespace: str, tmp_path: Path) -> Settings:
    """What a test's services run with: short leases, and a rehearsal that may do harm."""
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    return Settings(
        database_url=database_url,
        redis_url=redis_url,
        namespace=namespace,
        secret="a secret for tests, of 32 bytes or more",  # noqa: S106  # it protects nothing
        ticket_key="a ticket key for tests, of 32 bytes or more",
        uploads=uploads,
        rehearsal="unsafe",
        threads=4,
        lease=3,
        drain_grace=1,
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    engine = make_engine(settings.database_url, pool_size=5, application="test")
    yield engine
    engine.dispose()


def _administer(url: str, statement: str, *names: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _drop(url: str, name: str) -> None:
    """Whoever is still connected is thrown out; but not a process of PostgreSQL's own that tidies up in it just now."""
    for attempt in range(20):
        try:
            _administer(url, "DROP DATABASE {} WITH (FORCE)", name)
        except psycopg.errors.InsufficientPrivilege:
            if attempt == 19:
                raise
            time.sleep(0.1)
        else:
            return


def _with_database(url: str, name: str) -> str:
    plain = connect_url(url).set(drivername="postgresql", database=name)
    return plain.render_as_string(hide_password=False)
