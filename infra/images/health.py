"""`python -I -S health.py PORT`: the HEALTHCHECK of an image. Status 0 if the service here is ready, 1 if not.

A program of its own that loads next to nothing: it runs every few seconds, beside a service that has better to do.
"""

import socket
import sys

_PATIENCE = 4.0
"""Seconds: less than the time that the engine gives us, and more than the service takes to ask its servers."""

_HEAD = 64
"""Bytes: enough for the status line."""


def ready(port: int, path: str = "/health/ready") -> bool:
    """Whether what listens on this machine's `port` answers with 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as connection:
            connection.sendall(request.encode())
            return connection.recv(_HEAD).startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 "))
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if ready(int(sys.argv[1])) else 1)
