"""Ports on the loopback address."""

import secrets
import socket
from typing import Final

from infra.embedded.errors import EmbeddedError

HOST: Final = "127.0.0.1"

# Below the ports that Linux (from 32768) and macOS (from 49152) lend to outgoing connections: any of those
# could hold ours just when a server wants to come back to it.
_CHOICE: Final = range(20_000, 32_768)
_TRIES: Final = 100


def is_free(port: int) -> bool:
    try:
        check(port)
    except EmbeddedError:
        return False
    return True


def check(port: int) -> None:
    """Raise EmbeddedError, naming the port, when no server could listen on it now."""
    try:
        with socket.socket() as probe:
            # As the servers do, or connections of the last run that linger in TIME_WAIT would count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            probe.listen(1)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EmbeddedError(f"Port {port} on {HOST} cannot be used: {reason}.") from error


def free_port() -> int:
    """Somebody else may take it before it is used; nothing but using it can prevent that."""
    for _ in range(_TRIES):
        port = secrets.choice(_CHOICE)
        if is_free(port):
            return port
    raise EmbeddedError(f"None of {_TRIES} ports tried on {HOST} from {_CHOICE.start} to {_CHOICE.stop - 1} is free.")
