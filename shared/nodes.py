"""URLs that name several servers: `scheme://user:password@host:port,host:port/path`. The library knows one host only,
and refuses brackets of IPv6 that do not come first.
"""

import re
from urllib.parse import SplitResult, urlsplit

Node = tuple[str, int]
"""Host and port."""

_URL = re.compile(r"(?P<scheme>[^:/?#]+)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)


def part_nodes(url: str) -> tuple[SplitResult, str, list[str]]:
    """The URL without user and hosts; user and password as they stand there; and the hosts.

    Raises ValueError, which repeats nothing of it.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError
    user, _, hosts = found["authority"].rpartition("@")
    return urlsplit(f"{found['scheme']}://{found['rest']}"), user, hosts.split(",")


def read_node(text: str, usual: int) -> Node:
    """`host` or `host:port`; `usual`: the port that goes without saying. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.netloc != text or "@" in text or parts.port == 0:
        raise ValueError
    return parts.hostname, parts.port or usual
