"""Several Redis servers: a master with its replicas and sentinels, and a cluster. Real ones, which may be killed."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals
from typing import BinaryIO
from urllib.parse import quote

import redis

from infra.embedded.ports import HOST
from infra.embedded.valkey import Valkey
from tests.support.batches import wait_for
from tests.support.needs import program
from tests.support.ports import own_port

PASSWORD = f"p@ss:/,{secrets.token_hex(8)}"
OF_SENTINELS = f"other@:/,{secrets.token_hex(8)}"
SERVICE = "hints"
_WATCHER = "watcher"
"""As whom sentinels come to the servers."""
_SECONDS = 40.0
"""For a server to be noticed as lost, and for another to take over."""


def quoted(password: str) -> str:
    """As URLs have it."""
    return quote(password, safe="")


class RedisServer(Valkey):
    """Debian's, with whatever `more` its configuration says."""

    name = "Redis"

    def __init__(self, directory: Path, port: int, *more: str, password: str = PASSWORD) -> None:
        super().__init__(directory, port)
        self._more = more
        self._own_password = password

    def client(self) -> redis.Redis:
        return redis.Redis(host=HOST, port=self.port, password=self._own_password, decode_responses=True)

    def role(self) -> str:
        with self.client() as client:
            return str(client.execute_command("ROLE")[0])

    def stop(self) -> None:
        if self.alive():
            self.signal(SIGCONT)
        super().stop()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def signal(self, number: Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _prepare(self, _lock: BinaryIO) -> None:
        self._password = self._own_password

    def _make_url(self) -> str:
        return f"redis://:{quoted(self._password)}@{HOST}:{self.port}/0"

    def _command(self) -> Sequence[str | Path]:
        return [program("redis-server"), "-"]

    def _input(self) -> str:
        more = [f'masterauth "{self._password}"', f"dir {self.home.path}", *self._more]
        return super()._input().replace(self._password, f'"{self._password}"') + "\n".join(more) + "\n"


class Sentinel(RedisServer):
    """One of three that watch a master, and say within about two seconds that it is lost."""

    name = "Sentinel"
    death_signal = SIGKILL
    stop_signals = ((SIGTERM, 5),)

    def __init__(self, directory: Path, port: int, master: int, *more: str, watcher: str = _WATCHER) -> None:
        super().__init__(directory, port, *more, password=OF_SENTINELS)
        self._master = master
        self._watcher = watcher
        self._file = self.home.path / "sentinel.conf"

    def master(self) -> int:
        """The port of who is it now."""
        with self.client() as client:
            return int(client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    def _prepare(self, lock: BinaryIO) -> None:
        super()._prepare(lock)
        if not self._file.exists():  # it writes into it what it learns
            lines = [
                *self._more,
                f"bind {HOST}",
                f"port {self._wanted_port}",
                f'requirepass "{OF_SENTINELS}"',
                f'sentinel sentinel-pass "{OF_SENTINELS}"',
                f"sentinel monitor {SERVICE} {HOST} {self._master} 2",
                f"sentinel auth-user {SERVICE} {self._watcher}",
                f'sentinel auth-pass {SERVICE} "{PASSWORD}"',
                f"sentinel down-after-milliseconds {SERVICE} 1000",
                f"sentinel failover-timeout {SERVICE} 2000",  # the next one may come twice as long after
            ]
            self.home.write(self._file, "\n".join(lines) + "\n")

    def _command(self) -> Sequence[str | Path]:
        # by this way, because it asks whether it may write there in a manner that only looks at who owns what
        return [program("redis-sentinel"), f"/proc/self/cwd/{self._file.name}"]

    def _input(self) -> str:
        return ""


class Watched:
    """A master, two replicas, and three sentinels. `url` names the sentinels."""

    def __init__(self, servers: Sequence[RedisServer], sentinels: Sequence[Sentinel]) -> None:
        self.servers = servers
        self.sentinels = sentinels
        places = ",".join(f"{HOST}:{sentinel.port}" for sentinel in sentinels)
        self.url = f"redis+sentinel://:{quoted(PASSWORD)}@{places}/{SERVICE}/0?sentinel_password={quoted(OF_SENTINELS)}"

    @property
    def master(self) -> RedisServer:
        """Whom most sentinels take for it."""
        said = [sentinel.master() for sentinel in self.sentinels if sentinel.alive()]
        return next(server for server in self.servers if server.port == max(said, key=said.count))

    @contextmanager
    def cut_off(self, server: RedisServer) -> Iterator[None]:
        """No sentinel comes through to it meanwhile. All others do, and it answers them as ever."""
        with server.client() as client:
            client.execute_command("ACL SETUSER", _WATCHER, "off")
            client.execute_command("CLIENT KILL", "USER", _WATCHER)
            try:
                yield
            finally:
                client.execute_command("ACL SETUSER", _WATCHER, "on")

    def await_failover(self, before: RedisServer) -> RedisServer:
        """The new master, once all sentinels name it and it is one."""

        def done() -> RedisServer | None:
            found = {sentinel.master() for sentinel in self.sentinels if sentinel.alive()} - {before.port}
            new = [server for server in self.servers if {server.port} == found and server.role() == "master"]
            return new[0] if new else None

        new: RedisServer = wait_for(done, "another server to take over", _SECONDS)
        return new

    def await_replica(self, server: RedisServer) -> None:
        """Until it follows whoever is the master now."""

        def follows() -> bool:
            with server.client() as client:
                role = client.execute_command("ROLE")
            return bool(role[0] == "slave" and role[3] == "connected")

        wait_for(follows, "a server to be a replica", _SECONDS)


@contextmanager
def watched_redis(directory: Path) -> Iterator[Watched]:
    ports = [own_port() for _ in range(3)]
    with ExitStack() as stack:
        watcher = f'user {_WATCHER} on ">{PASSWORD}" ~* &* +@all'
        servers = [
            RedisServer(directory / "master", ports[0], watcher),
            *(
                RedisServer(directory / f"replica-{port}", port, watcher, f"replicaof {HOST} {ports[0]}")
                for port in ports[1:]
            ),
        ]
        sentinels = [Sentinel(directory / f"sentinel-{number}", own_port(), ports[0]) for number in range(3)]
        for server in (*servers, *sentinels):
            stack.callback(server.stop)
            server.start()
        watched = Watched(servers, sentinels)
        for server in servers[1:]:
            watched.await_replica(server)
        wait_for(lambda: all(_knows_all(sentinel) for sentinel in sentinels), "the sentinels to meet", _SECONDS)
        yield watched


def _knows_all(sentinel: Sentinel) -> bool:
    with sentinel.client() as client:
        state = client.execute_command("SENTINEL MASTER", SERVICE)
        return int(state["num-other-sentinels"]) == 2 and int(state["num-slaves"]) == 2


class Cluster:
    """Three masters and a replica of the first; `url` names all of them."""

    def __init__(self, nodes: Sequence[RedisServer]) -> None:
        self.nodes = nodes
        places = ",".join(f"{HOST}:{node.port}" for node in nodes)
        self.url = f"redis+cluster://:{quoted(PASSWORD)}@{places}"

    def await_whole(self) -> None:
        """Until all that run say that each slot has a master."""
        wait_for(lambda: all(_is_whole(node) for node in self.nodes if node.alive()), "the cluster", _SECONDS)


@contextmanager
def redis_cluster(directory: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        nodes = []
        for number in range(4):
            more = ("cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-node-timeout 1000")
            bus = f"cluster-port {own_port()}"  # not 10,000 above its own, which may be somebody else's
            node = RedisServer(directory / f"node-{number}", own_port(), *more, bus)
            stack.callback(node.stop)
            node.start()
            nodes.append(node)
        _join(nodes)
        cluster = Cluster(nodes)
        cluster.await_whole()
        yield cluster


def _join(nodes: Sequence[RedisServer]) -> None:
    *masters, replica = nodes
    edges = [0, 5461, 10923, 16384]
    with nodes[0].client() as first:
        for number, master in enumerate(masters):
            with master.client() as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                client.execute_command("CLUSTER ADDSLOTSRANGE", edges[number], edges[number + 1] - 1)
        for node in nodes[1:]:
            bus = next(int(line.split()[1]) for line in node._more if line.startswith("cluster-port"))
            first.execute_command("CLUSTER MEET", HOST, node.port, bus)
        identity = first.execute_command("CLUSTER MYID")
    with replica.client() as client:
        known = lambda: identity in str(client.execute_command("CLUSTER NODES"))  # noqa: E731
        wait_for(known, "the replica to know its master", _SECONDS)
        client.execute_command("CLUSTER REPLICATE", identity)
        wait_for(lambda: client.execute_command("ROLE")[3] == "connected", "the replica to follow", _SECONDS)


def _is_whole(node: RedisServer) -> bool:
    with node.client() as client:
        info = client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == 4)
