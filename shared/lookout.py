"""A lookout: which of several Redis servers to talk to, asked again each second.

A connection alone cannot tell. A master that was cut off from its sentinels, or a node from its cluster, answers pings
as ever; but what is published there reaches nobody, and what others publish is not heard there. So a thread beside
asks those who know, and the clients (shared/redis_clients.py) go where it says.
"""

import random
import time
import weakref
from collections.abc import Set as AbstractSet
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Any

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.nodes import Node
from shared.redis_urls import Several

PERIOD = 1.0
"""Seconds between two looks."""

_PATIENCE = 0.5
"""Seconds for one answer, and to connect for it. Those who do not answer make a look longer, by this much each."""

_FIRST = 2.0
"""Seconds that whoever connects waits for the first look."""

log = structlog.get_logger(__name__)


class NowhereError(redis.ConnectionError):
    """Nobody who was asked knows a server."""


class MovedError(redis.ConnectionError):
    """The server that this was connected to is not the one to be connected to any more."""


class Lookout:
    """`address` is where to connect to; None: not known. For any thread. It looks as long as somebody holds it."""

    def __init__(self, several: Several) -> None:
        self.address: Node | None = None
        self._several = several
        self._others: set[Node] = set()
        """Nodes that the cluster told of."""
        self._clients: dict[Node, redis.Redis] = {}
        self._looked = Event()
        Thread(target=_look_on, args=(weakref.ref(self), self._looked), name="redis-lookout", daemon=True).start()

    def find(self) -> Node:
        """Waits for the first look. Raises NowhereError."""
        self._looked.wait(_FIRST)
        address = self.address
        if address is None:
            raise NowhereError("no server is known")
        return address

    def look(self) -> None:
        """Once."""
        before = self.address
        self.address = self._ask_sentinels() if self._several.by == "sentinel" else self._ask_cluster()
        if before is not None and self.address not in {None, before}:
            log.info("redis has moved", host=self.address[0], port=self.address[1])

    def _ask_sentinels(self) -> Node | None:
        """The master of the newest configuration that any of them has: those that were cut off still have an old one.

        When nobody answers it stays what it was: a server need not go because its sentinels did.
        """
        newest, address = -1, self.address
        for node in self._several.nodes:
            with suppress(redis.RedisError, OSError, KeyError, TypeError, ValueError):
                pipeline = self._client(node).pipeline(transaction=False)
                # the leader of a failover says the new address by the first before the second has it
                pipeline.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._several.service)
                pipeline.execute_command("SENTINEL MASTER", self._several.service)
                (host, port), state = pipeline.execute()
                epoch = int(state["config-epoch"])
                if epoch > newest:
                    newest, address = epoch, (str(host), int(port))
        return address

    def _ask_cluster(self) -> Node | None:
        """A node that is with the majority: where we are, if it is one; else the first that says so. Where all that
        answer are with a minority, none hears everybody, and none is to be connected to.
        """
        for node in self._known():
            with suppress(redis.RedisError, OSError, ValueError):
                others = _with_majority(self._client(node).execute_command("CLUSTER NODES"), self._several)
                if others is not None:
                    self._others = others
                    self._forget(others.union(self._several.nodes))
                    return node
        return None

    def _known(self) -> list[Node]:
        """In no order, so that not all processes are with the same one; but where we are first."""
        nodes = list(self._others.union(self._several.nodes))
        random.shuffle(nodes)
        return sorted(nodes, key=lambda node: node != self.address)

    def _client(self, node: Node) -> redis.Redis:
        client = self._clients.get(node)
        if client is None:
            several = self._several
            sentinel = several.by == "sentinel"
            client = self._clients[node] = redis.Redis(
                host=node[0],
                port=node[1],
                username=several.sentinel_username if sentinel else several.username,
                password=several.sentinel_password if sentinel else several.password,
                socket_timeout=_PATIENCE,
                socket_connect_timeout=_PATIENCE,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
                ssl=several.tls,
                **tls_options(several),
            )
        return client

    def _forget(self, nodes: AbstractSet[Node]) -> None:
        """All others: nodes of a cluster come and go."""
        for node in self._clients.keys() - nodes:
            self._clients.pop(node).close()


_all: "weakref.WeakValueDictionary[Several, Lookout]" = weakref.WeakValueDictionary()
_making = Lock()


def lookout_for(several: Several) -> Lookout:
    """One for all clients of the process."""
    with _making:
        lookout = _all.get(several)
        if lookout is None:
            lookout = _all[several] = Lookout(several)
        return lookout


def tls_options(several: Several) -> dict[str, Any]:
    """For redis-py."""
    return {name: value == "true" if name == "ssl_check_hostname" else value for name, value in several.options}


def _look_on(held: "weakref.ref[Lookout]", looked: Event) -> None:
    while (lookout := held()) is not None:
        try:
            lookout.look()
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not end the looking
            log.error("looking for redis failed", error=repr(error))  # noqa: TRY400  # no locals
        looked.set()
        del lookout  # so that it can go
        time.sleep(PERIOD)


def _with_majority(answer: dict[str, Any], several: Several) -> set[Node] | None:
    """The nodes that a node of a cluster knows; None if it does not reach most of the masters: those that hold
    slots.
    """
    nodes: set[Node] = set()
    reached = masters = 0
    for address, node in answer.items():
        flags = set(node["flags"].split(","))
        if flags & {"noaddr", "handshake"}:
            continue
        host, _, port = address.rpartition(":")
        if host:  # a node that nobody has talked to does not know its own
            # certificates are for names
            nodes.add((node["hostname"] if several.tls and node["hostname"] else host, int(port)))
        if "master" in flags and node["slots"]:
            masters += 1
            reached += not flags & {"fail", "fail?"}
    return nodes if reached * 2 > masters else None
