"""A real RabbitMQ: a node of the test's own, on free ports, in a directory that goes with it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from infra.embedded.ports import HOST
from infra.embedded.process import _CHILD as BECOMES
from tests.support.batches import wait_for
from tests.support.needs import program
from tests.support.ports import own_port
from tests.support.tls import certificate

USER, PASSWORD = "headway", "a password: with / and @"

_START_SECONDS = 120

# Listeners on the loopback address only, no alarm but those that a test sets off, and consumers that keep a message
# for long are found out soon.
_CONFIG = """
listeners.tcp.default = {host}:{port}
listeners.ssl.default = {host}:{tls_port}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {certificate}
ssl_options.verify = verify_none
default_user = {user}
default_pass = {password}
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.relative = 0.9
consumer_timeout = {timeout}
log.console = true
log.console.level = info
"""
_ADVANCED = "[{rabbit, [{channel_tick_interval, 1000}]}].\n"

# In a bare container nobody may know the name localhost, which is the node's.
_HOSTS = '{host, {127,0,0,1}, ["localhost"]}.\n{lookup, [file, native]}.\n'


class RabbitMQ:
    """`start`, `stop` and `kill` it as often as you like: it comes back with the same address, and what it kept."""

    name = "RabbitMQ"

    def __init__(self, directory: Path, *, consumer_timeout: float = 1800) -> None:
        """`consumer_timeout`: seconds after which the server minds that a message is not acknowledged."""
        directory.mkdir(parents=True)
        self.port, self.tls_port = own_port(), own_port()
        self.certificate = directory / "certificate.pem"
        """And its key, for HOST; who trusts it may connect by TLS."""
        self.certificate.write_bytes(certificate())
        self.log = directory / "server.log"
        self._programs = Path(program("rabbitmq-server")).resolve().parent
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        (directory / "rabbitmq.conf").write_text(
            _CONFIG.format(
                host=HOST,
                port=self.port,
                tls_port=self.tls_port,
                certificate=self.certificate,
                user=USER,
                password=PASSWORD,
                timeout=round(consumer_timeout * 1000),
            )
        )
        (directory / "advanced.config").write_text(_ADVANCED)
        (directory / "inetrc").write_text(_HOSTS)
        (directory / "plugins").write_text("[].\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(directory),
            "ERL_EPMD_PORT": str(own_port()),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_INETRC": str(directory / "inetrc"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "no-such-file"),
            "RABBITMQ_NODENAME": "headway@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_DIST_PORT": str(own_port()),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            # becomes the server instead of starting it, so that our child is what we kill and freeze
            "RABBITMQ_ALLOW_INPUT": "1",
            # one core is enough, and none of it for waiting
            "RABBITMQ_SERVER_START_ARGS": "-noinput +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, hosts: str = "", *, user: str = USER, password: str = PASSWORD, path: str = "") -> str:
        return f"amqp://{user}:{quote(password, safe='')}@{hosts or f'{HOST}:{self.port}'}{path}"

    def tls_url(self) -> str:
        return f"amqps://{USER}:{quote(PASSWORD, safe='')}@{HOST}:{self.tls_port}?cacertfile={self.certificate}"

    def start(self) -> None:
        """Returns when it accepts connections."""
        if self._epmd is None:
            self._epmd = self._spawn(program("epmd"), "-port", self._environment["ERL_EPMD_PORT"], "-address", HOST)
        self._process = self._spawn(str(self._programs / "rabbitmq-server"))
        wait_for(lambda: not self.alive() or self._answers(), "RabbitMQ to answer", _START_SECONDS)
        assert self.alive(), self.log.read_text()[-2000:]

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None and self.alive():
            self.thaw()
            self._process.send_signal(how)
            self._process.wait(30)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """It is gone, and what it needed with it."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(10)

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` says; it takes a second or two to start."""
        done = subprocess.run(
            [self._programs / "rabbitmqctl", "--quiet", *arguments],
            env=self._environment,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        """It does not outlive us, whatever becomes of us."""
        become = [os.getpid(), signal.SIGKILL.value, -1, -1, 0]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", BECOMES, *map(str, become), *command],
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _answers(self) -> bool:
        """The port is open before the node serves: what it says first tells that it does."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(1))
        except OSError:
            return False


@contextmanager
def rabbitmq(directory: Path, *, consumer_timeout: float = 1800) -> Iterator[RabbitMQ]:
    """One that runs."""
    server = RabbitMQ(directory, consumer_timeout=consumer_timeout)
    try:
        server.start()
        yield server
    finally:
        server.close()
