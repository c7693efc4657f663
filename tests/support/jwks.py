"""Somebody who issues tokens: real keys, and a real HTTP server on which their public halves are."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from threading import Event, Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as make_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as make_rsa
from jwt.algorithms import get_default_algorithms

from tests.support.batches import OWNER

ALGORITHMS = ("RS256", "ES256", "EdDSA")


class IssuerKey:
    """One key pair. `jwk` is what is published of it."""

    def __init__(self, key_id: str | None = "k1", algorithm: str = "RS256", bits: int = 2048) -> None:
        self.id = key_id
        self.algorithm = algorithm
        self.private: Any
        if algorithm == "RS256":
            self.private = make_rsa(65537, bits)
        elif algorithm == "ES256":
            self.private = make_ec(SECP256R1())
        else:
            self.private = Ed25519PrivateKey.generate()
        public: Any = get_default_algorithms()[algorithm].to_jwk(self.private.public_key(), as_dict=True)
        # key_ops would differ from issuer to issuer; most say just this
        public = {name: value for name, value in public.items() if name != "key_ops"}
        self.jwk: dict[str, Any] = public | {"use": "sig", "alg": algorithm}
        if key_id is not None:
            self.jwk["kid"] = key_id

    def token(self, owner: str = OWNER, *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        given = {"sub": owner, "iss": "headway", "aud": "headway", "exp": time.time() + 3600} | claims
        given = {name: value for name, value in given.items() if value is not None}
        named = {} if self.id is None else {"kid": self.id}
        return jwt.encode(given, self.private, algorithm=self.algorithm, headers=named | (headers or {}))


def document(*keys: IssuerKey | dict[str, Any]) -> bytes:
    return json.dumps({"keys": [key.jwk if isinstance(key, IssuerKey) else key for key in keys]}).encode()


class Issuer:
    """What it answers with can be changed at any time. While `held` nothing is answered at all."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked = 0
        self.address = ""
        self.free = Event()
        self.free.set()

    def publish(self, *keys: IssuerKey | dict[str, Any]) -> None:
        self.body = document(*keys)


@contextmanager
def issuing(port: int = 0, context: SSLContext | None = None) -> Iterator[Issuer]:
    """With a `context`, by TLS."""
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked += 1
            issuer.free.wait(20)
            self.send_response(issuer.status)
            for name, value in ({"Content-Length": str(len(issuer.body))} | issuer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(issuer.body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Whoever asked has gone."""

    with Server(("127.0.0.1", port), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        issuer.address = f"{scheme}://127.0.0.1:{server.server_port}/keys.json"
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield issuer
        finally:
            issuer.free.set()
            server.shutdown()
            thread.join(10)
