"""What `headway doctor` concludes from what it saw."""

import socket
import time
from threading import Thread

import pytest

from infra.cli.api import parted
from infra.cli.checkup.advice import BUFFERING, PATHS, UPGRADE, Finding, advice
from infra.cli.checkup.clocks import apart, tell_clock
from infra.cli.checkup.lateness import LUMP, Piece, gathered, longest_wait, lumps, skew
from infra.cli.checkup.wire import Place, ask, connected
from infra.cli.errors import CliError


def made(*came: float, off: float = 0) -> list[Piece]:
    """Pieces that were made one each 100 ms."""
    return [Piece(number / 10 + off, time) for number, time in enumerate(came)]


def test_what_comes_as_it_is_made_waits_for_nothing_whatever_the_clocks_say() -> None:
    for off in (0, -3600, 40):
        pieces = made(*(number / 10 + 0.05 for number in range(20)), off=off)

        assert longest_wait(pieces) < LUMP
        assert skew(pieces) == pytest.approx(0.05 - off)


def test_what_comes_at_once_has_waited() -> None:
    assert longest_wait(made(*[2.0] * 20)) == pytest.approx(1.9)


def test_what_comes_in_two_lumps_has_waited_for_each() -> None:
    assert longest_wait(made(*[1.0] * 10, *[2.0] * 10)) == pytest.approx(0.9)


def test_what_comes_in_lumps_is_told_from_what_is_slow_and_not_by_how_long_it_waits() -> None:
    each_half_second = made(*(-(-number // 5) / 2 for number in range(20)))
    slow = made(*(number / 10 + 2 * (number % 3) / 30 for number in range(20)))

    assert longest_wait(each_half_second) < LUMP
    assert (lumps(each_half_second), gathered(each_half_second)) == (5, True)
    assert (lumps(slow), gathered(slow)) == (20, False)


def test_what_was_made_together_may_come_together() -> None:
    pieces = [Piece(number // 4 / 10, number // 4 / 10 + 0.03) for number in range(40)]

    assert lumps(pieces) == 10
    assert not gathered(pieces)


@pytest.mark.parametrize(
    ("first", "last", "off"), [(100, 101, 0), (90, 100.5, 0), (103.5, 104.5, 1.5), (97, 98, -2), (101, 102, 0)]
)
def test_a_clock_is_wrong_only_by_what_no_delay_explains(first: float, last: float, off: float) -> None:
    assert apart(first, last, 100, 102) == pytest.approx(off)


def test_a_clock_that_is_a_little_wrong_is_nobodys_business() -> None:
    tell_clock(4, "the gateway", "Date")
    with pytest.raises(Finding, match="60 s behind this machine") as found:
        tell_clock(-60, "the gateway", "Date: then")
    assert "change: " in str(found.value)
    assert "seen:   Date: then" in str(found.value)


@pytest.mark.parametrize(
    ("server", "named"),
    [
        ("nginx/1.28.0", ["nginx:", "ingress-nginx:"]),
        ("Caddy", ["Caddy:"]),
        ("traefik", ["Traefik:"]),
        ("", ["nginx:", "ingress-nginx:", "Caddy:", "Traefik:"]),
        ("something/1", ["nginx:", "ingress-nginx:", "Caddy:", "Traefik:"]),
    ],
)
def test_advice_is_for_the_gateway_that_there_is(server: str, named: list[str]) -> None:
    lines = [line.strip() for line in advice(UPGRADE, server).split("\n")]

    assert [line.split(" ")[0] for line in lines] == named


def test_what_holds_for_every_gateway_is_said_of_each() -> None:
    assert advice(BUFFERING, "Caddy").count("\n") == 1
    assert "everything else to api" in advice(PATHS, "nginx")


def test_an_answer_is_read_whole_however_it_comes() -> None:
    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            for piece in (b"HTTP/1.1 200 OK\r\nContent-", b"Length: 6\r\n\r\nabc", b"def"):
                connection.sendall(piece)
                time.sleep(0.05)  # so that each is a packet of its own
            connection.recv(4096)  # it is kept open, and the length says that this was all

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=serve, args=(server,))
        thread.start()
        port = server.getsockname()[1]
        answer = ask(Place.of(f"http://127.0.0.1:{port}"), None, "GET", "/")
        thread.join(10)

    assert answer is not None
    assert (answer.status, answer.body) == (200, b"abcdef")


def test_an_address_says_where_to_look() -> None:
    assert Place.of("https://a.example") == Place(True, "a.example", 443, "a.example")
    assert Place.of("http://[::1]:8000") == Place(False, "::1", 8000, "[::1]:8000")


@pytest.mark.parametrize(
    "address",
    ["https://", "ftp://a.example", "http://127.0.0.1:99999", "http://127.0.0.1:x", "http://a:0", "http://[::1"],
)
def test_what_is_no_address_is_called_so(address: str) -> None:
    with pytest.raises(CliError, match="is not an address"):
        parted(address)


def test_a_broken_pipe_of_the_network_is_not_taken_for_one_of_our_output() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = Place.of(f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ConnectionResetError), connected(place, None):
            raise BrokenPipeError
