"""Whose connection it is, as far as that can be known behind a gateway: what anybody may write is not believed."""

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from itertools import islice
from typing import Any

from shared.settings import Network

Address = IPv4Address | IPv6Address

MOST_PROXIES = 16
"""On the way to us; whoever has more of them counts as the last."""

_FORWARDED = b"x-forwarded-for"

_ONES_OWN = 64
"""Bits of an IPv6 address that are given to one household or one machine, which changes the rest as it likes."""


def client_address(scope: Mapping[str, Any], proxies: Collection[Network]) -> str:
    """The client of an ASGI `scope`, as it is to be counted: an IPv4 address or a network of IPv6; empty if unknown.

    Each proxy adds who came to it at the end of `X-Forwarded-For`. So that is read from its end, and only as long as
    those who wrote are `proxies`.
    """
    client = scope.get("client")
    address = _read(client[0]) if client else None
    if address is None:
        return ""
    if _among(address, proxies):
        for entry in islice(_backwards(scope["headers"]), MOST_PROXIES):
            before = _read(entry)
            if before is None:  # then the proxy that wrote this is all that we know
                break
            address = before
            if not _among(address, proxies):
                break
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _ONES_OWN), strict=False))
    return str(address)


def _backwards(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[str]:
    """What stands in all the headers, which are one list in their order."""
    lines = [value for name, value in headers if name == _FORWARDED]
    for line in reversed(lines):
        yield from reversed(line.decode("latin-1").split(","))


def _read(text: str) -> Address | None:
    """Some proxies write the port as well, and then IPv6 in brackets."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _among(address: Address, proxies: Collection[Network]) -> bool:
    return any(address in network for network in proxies)
