"""Parts of the launcher of the embedded servers that need no server."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded import ports
from infra.embedded.errors import EmbeddedError
from infra.embedded.home import Account, Home

STRANGER = Account(uid=54_321, gid=54_321)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    listener = socket.create_server((ports.HOST, 0))
    yield listener
    listener.close()


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server((ports.HOST, ports.free_port())):
        pass


def test_a_taken_port_is_not_free_and_the_error_names_it(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert not ports.is_free(port)
    with pytest.raises(EmbeddedError, match=f"Port {port} .*in use"):
        ports.check(port)


def test_a_port_taken_on_all_addresses_is_not_free() -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:  # noqa: S104 - the case in question
        assert not ports.is_free(everywhere.getsockname()[1])


def test_a_port_with_lingering_connections_is_free() -> None:
    """Or a server could not come back to its port for a minute."""
    with socket.create_server((ports.HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((ports.HOST, port)):
            listener.accept()[0].close()  # closed here first: the TIME_WAIT is on this side
    assert ports.is_free(port)


def test_a_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(EmbeddedError, match="70000"):
        ports.check(70_000)


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """A program that everybody may run, in `closable/open`."""
    program = tmp_path / "closable" / "open" / "program"
    program.parent.mkdir(parents=True)
    program.touch()
    program.chmod(0o755)
    program.parent.chmod(0o755)
    program.parent.parent.chmod(0o755)
    return program


def test_an_account_reaches_what_is_open_all_the_way(nested: Path) -> None:
    # Where a test's directory begins somebody else decides, so this looks at the part below it.
    assert all(STRANGER._may(path, 0o1) for path in (nested, *nested.parents[:2]))
    assert Account(os.geteuid(), os.getegid()).reaches(nested)


def test_an_account_does_not_reach_through_a_closed_directory(nested: Path) -> None:
    nested.parent.parent.chmod(0o700)
    assert not STRANGER.reaches(nested)


def test_an_account_does_not_reach_what_it_may_not_run(nested: Path) -> None:
    nested.chmod(0o744)
    assert not STRANGER._may(nested, 0o5)
    assert not STRANGER.reaches(nested)


def test_a_home_is_closed_to_others_and_so_are_its_files(tmp_path: Path) -> None:
    directory = tmp_path / "home"
    directory.mkdir(mode=0o755)
    home = Home(directory)
    home.enter()
    home.write(home.path / "secret", "one")
    home.write(home.path / "secret", "2")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "secret").stat().st_mode & 0o777 == 0o600
    assert (directory / "secret").read_text() == "2"
    assert [path.name for path in directory.iterdir()] == ["secret"]


def test_a_home_does_not_write_through_a_symbolic_link(tmp_path: Path) -> None:
    """As root it would write and give away a file that the owner of the directory chose."""
    home = Home(tmp_path / "home")
    home.enter()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (home.path / "secret.new").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        home.write(home.path / "secret", "theirs")
    assert victim.read_text() == "mine"


def test_a_lock_has_one_holder_and_is_free_again_when_closed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lock = home.lock("lock", seconds=0)
    assert lock is not None
    assert home.lock("lock", seconds=0) is None
    lock.close()
    again = home.lock("lock", seconds=0)
    assert again is not None
    again.close()
