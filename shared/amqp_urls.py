"""The forms of a RabbitMQ URL, and what each says: one node, or several of a cluster."""

from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from shared.nodes import Node, part_nodes, read_node

FORMS = "amqp://user:password@host:port/vhost or amqps://user:password@host:port,host:port/vhost"
"""For sentences that say what was expected."""

_PORTS = {"amqp": 5672, "amqps": 5671}
_TLS = frozenset({"cacertfile", "certfile", "keyfile"})


class Amqp(Struct, frozen=True):
    """Nodes of which any will do, and how to come in."""

    nodes: tuple[Node, ...]
    tls: bool
    username: str
    password: str
    vhost: str
    files: tuple[tuple[str, str], ...] = ()
    """Of TLS, by RabbitMQ's names: `cacertfile`, `certfile`, `keyfile`."""

    def __repr__(self) -> str:
        """Says nothing: it holds a password."""
        return "Amqp(…)"


def is_amqp(url: str) -> bool:
    """Whether it means to be one."""
    return url.partition("://")[0].lower() in _PORTS


def read_amqp_url(url: str) -> Amqp:
    """What `url` says. Raises ValueError, which repeats nothing of it."""
    try:
        return _read(url)
    except ValueError:
        raise ValueError(f"expected {FORMS}") from None


def _read(url: str) -> Amqp:
    parts, user, hosts = part_nodes(url)
    username, _, password = user.partition(":")
    vhost = parts.path.removeprefix("/")
    query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    allowed = _TLS if parts.scheme == "amqps" else frozenset()
    if "/" in vhost or parts.fragment or not dict(query).keys() <= allowed or len(dict(query)) < len(query):
        raise ValueError
    return Amqp(
        tuple(read_node(host, _PORTS[parts.scheme]) for host in hosts),
        parts.scheme == "amqps",
        unquote(username) or "guest",
        unquote(password) or "guest",
        unquote(vhost) or "/",
        tuple(query),
    )
