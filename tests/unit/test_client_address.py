"""Where a connection comes from: only what our own proxies wrote is believed."""

from typing import Any

import pytest

from shared.settings import Settings, read_proxies
from shared.web.client_address import MOST_PROXIES, client_address

OURS = "10.0.0.0/8, 192.0.2.1, 2001:db8::/32"


def came_from(peer: str | None, *forwarded: str, proxies: str = OURS) -> str:
    """Each of `forwarded` is a header of its own."""
    headers = [(b"host", b"example.org"), *((b"x-forwarded-for", value.encode()) for value in forwarded)]
    scope: dict[str, Any] = {"client": peer and (peer, 4711), "headers": headers}
    settings = Settings(database_url="", redis_url="", secret="s" * 32, ticket_key="t" * 32, proxies=proxies)
    return client_address(scope, read_proxies(settings))


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        # nobody in between
        ("203.0.113.7", [], "203.0.113.7"),
        # whoever is no proxy of ours may write what they like
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        ("203.0.113.7", ["10.0.0.1"], "203.0.113.7"),
        # one proxy, two, and one that is a network's
        ("192.0.2.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["203.0.113.7, 10.9.9.9"], "203.0.113.7"),
        ("10.1.2.3", ["203.0.113.7", "10.9.9.9"], "203.0.113.7"),
        # the client wrote a chain of its own, to which our proxy added who it was
        ("10.1.2.3", ["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["198.51.100.1", "10.0.0.5, 203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["198.51.100.1, 10.0.0.5, 203.0.113.7, 10.0.0.6"], "203.0.113.7"),
        # what nobody of ours wrote does not matter, however wrong
        ("10.1.2.3", ["\x7f\x00,,]][[, 203.0.113.7"], "203.0.113.7"),
        # no address where our proxy should have written one: it is all that is known
        ("10.1.2.3", ["unknown"], "10.1.2.3"),
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.7,"], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.7, _hidden, 10.0.0.6"], "10.0.0.6"),
        ("10.1.2.3", ["203.0.113.256"], "10.1.2.3"),
        ("10.1.2.3", ["0x7f.1"], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.7 198.51.100.1"], "10.1.2.3"),
        # from within: the first of all
        ("10.1.2.3", ["10.0.0.5, 10.0.0.6"], "10.0.0.5"),
        ("10.1.2.3", [], "10.1.2.3"),
        # with ports
        ("10.1.2.3", ["203.0.113.7:5555"], "203.0.113.7"),
        ("10.1.2.3", ["[2a00:1:2:3::9]:5555"], "2a00:1:2:3::/64"),
        # a /64 is one household's
        ("2a00:1:2:3:4:5:6:7", [], "2a00:1:2:3::/64"),
        ("2a00:1:2:3::1", ["203.0.113.7"], "2a00:1:2:3::/64"),
        ("2001:db8::5", ["2a00:1:2:3::1"], "2a00:1:2:3::/64"),
        ("2001:db8::5", ["2a00:1:2:4::1"], "2a00:1:2:4::/64"),
        # IPv4 on a socket of both kinds
        ("::ffff:203.0.113.7", [], "203.0.113.7"),
        ("::ffff:10.1.2.3", ["203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["::ffff:203.0.113.7"], "203.0.113.7"),
        # on the same link
        ("fe80::1%eth0", [], "fe80::/64"),
        # no network at all between us
        (None, ["203.0.113.7"], ""),
    ],
)
def test_the_last_that_our_proxies_do_not_vouch_for(peer: str | None, forwarded: list[str], expected: str) -> None:
    assert came_from(peer, *forwarded) == expected


def test_without_proxies_nothing_is_believed() -> None:
    assert came_from("127.0.0.1", "203.0.113.7", proxies="") == "127.0.0.1"


def test_a_chain_without_end_is_read_to_a_bound() -> None:
    chain = ", ".join(["203.0.113.7", *(f"10.0.{number}.1" for number in range(200))])
    assert came_from("10.1.2.3", chain) == f"10.0.{200 - MOST_PROXIES}.1"
