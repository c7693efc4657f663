"""The public keys of whoever issues our tokens: fetched from their JWKS address, and kept for a while."""

import asyncio
import http.client
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from math import ceil
from socket import SHUT_RDWR
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from msgspec import Raw, Struct

from shared.errors import Unauthenticated, Unavailable
from shared.settings import Settings

FRESH = 300.0
"""Seconds after which keys are fetched anew, while the ones at hand are used."""
OLD = 600.0
"""Seconds after which a request waits for that, in a process that was asked nothing for long: a key that was withdrawn
is good for no longer than this, as long as the address answers."""
STALE = 4 * 3600.0
"""Seconds for which keys are good while the address does not answer."""

PATIENCE = 3.0
"""Seconds for one attempt to fetch."""
BURST, PAUSE = 3, 10.0
"""Fetches for unknown keys: so many at once, and then one every so many seconds, whatever strangers invent."""
_AGAIN_FIRST, _AGAIN_MOST = 1.0, 15.0
"""Seconds before the next attempt after one that failed; doubled each time."""

LONGEST = 256 * 1024
"""Bytes of a JWKS document. The largest public ones have a tenth of that."""
MOST = 100
"""Keys in it."""

_KEY_TYPES = {"RS256": ("RSA", None), "ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}
_RSA_BITS = range(2048, 8192 + 1)
"""Shorter ones can be broken, and longer ones take long to check."""

log = structlog.get_logger(__name__)


class Unusable(Exception):
    """What came from the address is no set of keys that could be used; says why, without repeating it."""


class Keys:
    """For one event loop. `fetch` gets the document, in a thread; `clock` gives seconds. Nothing is fetched unasked."""

    def __init__(
        self, algorithm: str, fetch: Callable[[], bytes], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._algorithm = algorithm
        self._fetch = fetch
        self._clock = clock
        self._keys: Mapping[str | None, PyJWK] = {}
        self._fetched = float("-inf")
        self._failures = 0
        self._not_before = float("-inf")
        """When the address may be asked again after it failed."""
        self._allowed = float(BURST)
        self._allowed_at = clock()
        self._fetching: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")

    def known(self, key_id: str | None) -> PyJWK | None:
        """The key, if it is at hand and fresh: what nearly every request is content with. Never blocks."""
        return self._keys.get(key_id) if self._age < FRESH else None

    async def find(self, key_id: str | None) -> PyJWK:
        """Raises Unauthenticated when there is no such key, and Unavailable when nobody can tell."""
        key = self._at_hand(key_id)
        if key is None:
            if self._fetching is not None or self._worth_asking():
                await self._renewed()
                key = self._at_hand(key_id)
            if key is None and (self._failures or self._fetching is not None or self._age >= STALE):
                raise Unavailable("The keys of tokens cannot be fetched.", headers={"Retry-After": self._wait()})
        elif self._clock() >= self._not_before:
            if self._age >= OLD and not self._failures:
                await self._renewed()
                key = self._at_hand(key_id)
            else:
                self._renew()
        if key is None:
            raise Unauthenticated("the token is signed with a key that is not known")
        return key

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def _age(self) -> float:
        return self._clock() - self._fetched

    def _at_hand(self, key_id: str | None) -> PyJWK | None:
        return self._keys.get(key_id) if self._age < STALE else None

    def _worth_asking(self) -> bool:
        """Whether to fetch for an unknown key, this time."""
        now = self._clock()
        if self._failures:
            return now >= self._not_before
        self._allowed = min(BURST, self._allowed + (now - self._allowed_at) / PAUSE)
        self._allowed_at = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True

    def _wait(self) -> str:
        """Seconds until it is worth asking again."""
        return str(max(1, ceil(self._not_before - self._clock()))) if self._failures else str(ceil(PATIENCE))

    def _renew(self) -> "asyncio.Task[None]":
        """One fetch at a time, for all who wait."""
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch_all())
        return self._fetching

    async def _renewed(self) -> None:
        """Whatever comes of it; not waited for much longer than it may take."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE + 1):
                await asyncio.shield(self._renew())

    async def _fetch_all(self) -> None:
        try:
            document = await asyncio.get_running_loop().run_in_executor(self._thread, self._fetch)
            self._keys = read_keys(document, self._algorithm)
        except Exception as error:  # noqa: BLE001  # whatever it is, the keys at hand go on being used
            why = str(error) if isinstance(error, Unusable) else type(error).__name__  # not the address
            log.warning("the keys of tokens cannot be fetched", why=why)
            self._not_before = self._clock() + min(_AGAIN_MOST, _AGAIN_FIRST * 2**self._failures)
            self._failures += 1
        else:
            self._fetched = self._clock()
            self._failures = 0
        finally:
            self._fetching = None


def make_keys(settings: Settings) -> Keys | None:
    """None where tokens are checked by the secret."""
    if not settings.jwks_url:
        return None
    return Keys(settings.jwks_algorithm, lambda: download(settings.jwks_url))


def read_keys(document: bytes, algorithm: str) -> dict[str | None, PyJWK]:
    """The keys by their ids that `algorithm` may use; a single one also by None, for tokens that name none.

    Raises Unusable if there is none at all.
    """
    try:
        listed = msgspec.json.decode(document, type=_Document).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unusable("it is not a JWKS document") from None
    found: dict[str | None, PyJWK] = {}
    usable = [key for raw in listed[:MOST] if (key := _usable(raw, algorithm)) is not None]
    for key in usable:
        if key.key_id is not None:
            found.setdefault(key.key_id, key)
    if len(usable) == 1:
        found[None] = usable[0]
    if not found:
        raise Unusable(f"it holds no key for {algorithm}")
    return found


def download(url: str) -> bytes:
    """What is at the address, asked directly: no proxy, no redirections. Raises OSError, HTTPException and Unusable."""
    address = urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme.lower() == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=PATIENCE)
    target = (address.path or "/") + (f"?{address.query}" if address.query else "")
    deadline = Timer(PATIENCE, _cut, [connection])
    try:
        connection.connect()
        deadline.start()  # `timeout` is for each step, and there is no end of steps
        connection.request("GET", target, headers={"Accept": "application/json", "Connection": "close"})
        reply = connection.getresponse()
        if reply.status != HTTPStatus.OK:
            raise Unusable(f"the address answers with status {reply.status}")
        document = reply.read(LONGEST + 1)
    finally:
        deadline.cancel()
        connection.close()
    if len(document) > LONGEST:
        raise Unusable(f"the document is longer than {LONGEST} bytes")
    return document


def _cut(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError):
        connection.sock.shutdown(SHUT_RDWR)


class _Document(Struct):
    keys: list[Raw]
    """Read one by one: what is odd about one does not make the others useless."""


def _usable(raw: Raw, algorithm: str) -> PyJWK | None:
    """The key, if it is what `algorithm` needs and for nothing else by its own account."""
    kind, curve = _KEY_TYPES[algorithm]
    try:
        jwk: Any = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not isinstance(jwk, dict) or jwk.get("kty") != kind or jwk.get("crv") != curve or "d" in jwk:
        return None  # `d`: a private key, which is private no longer
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if jwk.get("alg", algorithm) != algorithm or jwk.get("use", "sig") != "sig":
        return None
    if not isinstance(jwk.get("kid", ""), str):
        return None
    try:
        key = PyJWK(jwk, algorithm)
    except Exception:  # noqa: BLE001  # libraries differ in how they say that it is no key
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size not in _RSA_BITS:
        return None
    return key
