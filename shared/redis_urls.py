"""The forms of a Redis URL, and what each says: one server, one of several by Sentinel, or a cluster."""

from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

from shared.nodes import Node, part_nodes, read_node

FORMS = (
    "redis://user:password@host:port/0, redis+sentinel://user:password@host:port,host:port/service/0 "
    "or redis+cluster://user:password@host:port,host:port"
)
"""For sentences that say what was expected."""

_PORTS = {"sentinel": 26379, "cluster": 6379}
_TLS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"})
_OF_SENTINELS = frozenset({"sentinel_username", "sentinel_password"})


class Several(Struct, frozen=True):
    """Servers of which one at a time is talked to: found by asking `nodes`, which are sentinels or of the cluster."""

    by: Literal["sentinel", "cluster"]
    nodes: tuple[Node, ...]
    tls: bool
    username: str | None
    password: str | None
    service: str = ""
    """The name that sentinels know the master by."""
    database: int = 0
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    """Of TLS, by redis-py's names."""

    def __repr__(self) -> str:
        """Says nothing: it holds passwords."""
        return "Several(…)"


def read_redis_url(url: str) -> Several | None:
    """What `url` says, if it names several; None for one server, which redis-py reads itself.

    Raises ValueError, which repeats nothing of it.
    """
    try:
        scheme, _, by = url.partition("://")[0].lower().partition("+")
        if by == "sentinel" and scheme in {"redis", "rediss"}:
            return _read(url, "sentinel")
        if by == "cluster" and scheme in {"redis", "rediss"}:
            return _read(url, "cluster")
        port = urlsplit(url).port
        good = not by and scheme in {"redis", "rediss", "unix"} and (port is None or port > 0)
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"expected {FORMS}")
    return None


def is_cluster(url: str) -> bool:
    """Of a URL that is good."""
    several = read_redis_url(url)
    return several is not None and several.by == "cluster"


def _read(url: str, by: Literal["sentinel", "cluster"]) -> Several:
    parts, user, hosts = part_nodes(url)
    username, _, password = user.partition(":")
    tls = parts.scheme.startswith("rediss")
    query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    options = dict(query)
    allowed = (_TLS if tls else frozenset()) | (_OF_SENTINELS if by == "sentinel" else frozenset())
    if not options.keys() <= allowed or len(options) < len(query) or parts.fragment:
        raise ValueError
    service, database = "", "0"
    if by == "sentinel":
        service, _, database = parts.path.removeprefix("/").partition("/")
        if not service:
            raise ValueError
    elif parts.path not in {"", "/", "/0"}:
        raise ValueError
    if not (database or "0").isascii() or not (database or "0").isdigit():
        raise ValueError
    return Several(
        by,
        tuple(read_node(host, _PORTS[by]) for host in hosts),
        tls,
        unquote(username) or None,
        unquote(password) or None,
        unquote(service),
        int(database or 0),
        options.pop("sentinel_username", None),
        options.pop("sentinel_password", None),
        tuple(options.items()),
    )
