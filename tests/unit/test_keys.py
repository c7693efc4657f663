"""The keys of tokens: which are used, when they are fetched, and what happens when they cannot be."""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from shared import keys as keys_module
from shared.errors import HeadwayError, Unauthenticated, Unavailable
from shared.keys import BURST, FRESH, LONGEST, MOST, OLD, PAUSE, STALE, Keys, Unusable, download, read_keys
from tests.support.jwks import ALGORITHMS, IssuerKey, document, issuing

ONE, TWO, THREE = (IssuerKey(name, "EdDSA") for name in ("one", "two", "three"))
RSA, EC = IssuerKey("rsa"), IssuerKey("ec", "ES256")


class World:
    """What is published, and a clock. `gate` holds fetches back."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.published: bytes | None = document(ONE)
        self.fetches = 0
        self.gate = Event()
        self.gate.set()
        self.keys = Keys("EdDSA", self._fetch, clock=lambda: self.now)

    def _fetch(self) -> bytes:
        self.fetches += 1
        assert self.gate.wait(20)
        if self.published is None:
            raise ConnectionRefusedError
        return self.published

    async def find(self, key_id: str) -> str | type[HeadwayError]:
        try:
            key = self.keys.known(key_id) or await self.keys.find(key_id)
        except HeadwayError as error:
            return type(error)
        return str(key.key_id)

    async def idle(self) -> None:
        """Nothing is being fetched."""
        deadline = time.monotonic() + 10
        while self.keys._fetching is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.gate.set()
    await world.keys.close()


async def test_a_known_key_needs_no_fetch(world: World) -> None:
    assert world.keys.known("one") is None
    assert [await world.find("one") for _ in range(100)] == ["one"] * 100
    assert world.keys.known("one") is not None
    assert world.fetches == 1


async def test_those_who_wait_share_one_fetch(world: World) -> None:
    world.gate.clear()
    asking = [asyncio.create_task(world.find(name)) for name in ["one"] * 20 + ["nobody"] * 20]
    await asyncio.sleep(0.05)
    world.gate.set()
    assert await asyncio.gather(*asking) == ["one"] * 20 + [Unauthenticated] * 20
    assert world.fetches == 1


async def test_a_rotated_key_is_found_by_one_fetch_at_once(world: World) -> None:
    await world.find("one")
    world.published = document(ONE, TWO)
    assert [await world.find("two"), await world.find("two"), await world.find("one")] == ["two", "two", "one"]
    assert world.fetches == 2
    world.published = document(TWO, THREE)
    assert await world.find("three") == "three"
    assert await world.find("one") is Unauthenticated, "a key that was withdrawn is gone with the next fetch"


async def test_invented_keys_do_not_make_us_ask_and_ask(world: World) -> None:
    await world.find("one")
    for number in range(1000):
        assert await world.find(f"invented {number}") is Unauthenticated
    assert world.fetches == BURST
    for _ in range(10):
        world.now += PAUSE
        for number in range(50):
            assert await world.find(f"invented {number}") is Unauthenticated
    assert world.fetches <= BURST + 10
    assert await world.find("one") == "one"
    world.published = document(TWO)
    world.now += PAUSE
    assert await world.find("two") == "two", "and a real one is found all the same"


async def test_keys_are_renewed_without_anybody_waiting(world: World) -> None:
    await world.find("one")
    world.published = document(TWO)
    world.now += FRESH
    world.gate.clear()
    assert await world.find("one") == "one"
    assert await world.find("one") == "one"
    world.gate.set()
    await world.idle()
    assert world.fetches == 2
    assert [await world.find("one"), await world.find("two")] == [Unauthenticated, "two"]


async def test_a_withdrawn_key_is_not_good_after_a_long_silence(world: World) -> None:
    await world.find("one")
    world.published = document(TWO)
    world.now += OLD
    assert await world.find("one") is Unauthenticated


@pytest.mark.parametrize("published", [None, b"", b"{}", b'{"keys": []}', b"[]", document(RSA), b"\xff", b"[" * 10**6])
async def test_known_keys_go_on_when_none_can_be_fetched_but_not_for_ever(
    world: World, published: bytes | None
) -> None:
    await world.find("one")
    world.published = published
    world.now += OLD
    assert await world.find("one") == "one"
    assert await world.find("two") is Unavailable
    world.now += STALE - OLD - 1
    assert await world.find("one") == "one"
    await world.idle()
    world.now += 1
    assert await world.find("one") is Unavailable
    world.published = document(ONE)
    world.now += 60
    assert await world.find("one") == "one"


async def test_nobody_can_tell_before_the_first_fetch(world: World) -> None:
    world.published = None
    assert await world.find("one") is Unavailable
    with pytest.raises(Unavailable) as raised:
        await world.keys.find("one")
    assert int(raised.value.headers["Retry-After"]) >= 1
    assert world.fetches == 1, "it is not asked again at once"
    world.published = document(ONE)
    world.now += 1
    assert await world.find("one") == "one"


async def test_an_address_that_does_not_answer_is_asked_less_and_less(world: World) -> None:
    world.published = None
    for _ in range(600):
        assert await world.find("one") is Unavailable
        world.now += 0.1
    assert 4 <= world.fetches <= 9


async def test_a_fetch_that_hangs_is_waited_for_by_nobody_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "PATIENCE", -0.9)
    world.gate.clear()
    assert await world.find("one") is Unavailable
    assert await world.find("two") is Unavailable
    assert world.fetches == 1


# -- documents ----------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("RS256", RSA.jwk | {"alg": "RS384"}),
    ("RS256", RSA.jwk | {"alg": "HS256"}),
    ("RS256", RSA.jwk | {"use": "enc"}),
    *(
        ("RS256", RSA.jwk | {"key_ops": odd})
        for odd in (["encrypt"], [], [7, ["verify"]], None, 7, "verify", {"verify": 1})
    ),
    *(("RS256", RSA.jwk | {name: odd}) for name in ("alg", "use", "kty", "n", "e") for odd in (None, 7, [], {})),
    *(("RS256", RSA.jwk | {"kid": odd}) for odd in (None, [], {})),
    ("RS256", RSA.jwk | {"crv": []}),
    *(("ES256", EC.jwk | {name: odd}) for name in ("crv", "x", "y") for odd in (None, 7, [], {})),
    *(("EdDSA", ONE.jwk | {name: odd}) for name in ("crv", "x") for odd in (None, 7, [], {})),
    ("RS256", RSA.jwk | {"kty": "EC"}),
    ("RS256", RSA.jwk | {"kty": "oct", "k": "AAAA"}),
    ("RS256", RSA.jwk | {"kid": 7}),
    ("RS256", RSA.jwk | {"n": 7}),
    ("RS256", RSA.jwk | {"n": "é"}),
    ("RS256", RSA.jwk | {"e": ""}),
    ("RS256", RSA.jwk | {"d": "AQAB"}),
    ("RS256", IssuerKey("short", bits=1024).jwk),
    ("RS256", EC.jwk),
    ("RS256", ONE.jwk),
    ("ES256", RSA.jwk),
    ("ES256", EC.jwk | {"crv": "P-384"}),
    ("ES256", EC.jwk | {"x": EC.jwk["y"]}),
    ("EdDSA", ONE.jwk | {"crv": "Ed448"}),
    ("EdDSA", ONE.jwk | {"x": "AAAA"}),
    ("EdDSA", {"kty": "OKP"}),
]


@pytest.mark.parametrize(("algorithm", "jwk"), WRONG, ids=range(len(WRONG)))
def test_a_key_that_does_not_fit_is_not_used(algorithm: str, jwk: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        read_keys(document(jwk), algorithm)
    good = {"RS256": RSA, "ES256": EC, "EdDSA": ONE}[algorithm]
    listed = [jwk, None, 7, [], good.jwk]
    assert list(read_keys(json.dumps({"keys": listed}).encode(), algorithm)) == [good.id, None]


@pytest.mark.parametrize("number", [b"1e999", b"9" * 5000])
def test_a_number_that_nobody_can_read_harms_its_own_key_only(number: bytes) -> None:
    listed = document(IssuerKey("other").jwk | {"iat": "number"}, RSA).replace(b'"number"', number)
    assert list(read_keys(listed, "RS256")) == ["rsa", None]


@pytest.mark.parametrize("odd", [None, 7, "x", [], [None], {}])
def test_what_is_not_looked_at_may_be_anything(odd: object) -> None:
    jwk = RSA.jwk | dict.fromkeys(("x5c", "x5t", "x5t#S256", "x5u", "ext", "oth", "x", "y", "invented"), odd)
    assert list(read_keys(document(jwk), "RS256")) == ["rsa", None]


def test_a_key_that_verifies_may_do_more() -> None:
    assert list(read_keys(document(RSA.jwk | {"key_ops": ["wrapKey", None, "verify"]}), "RS256")) == ["rsa", None]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_may_leave_out_what_goes_without_saying(algorithm: str) -> None:
    key = IssuerKey(None, algorithm)
    bare = {name: value for name, value in key.jwk.items() if name not in {"use", "alg"}}
    assert list(read_keys(document(bare), algorithm)) == [None]


def test_two_keys_without_names_cannot_be_told_apart() -> None:
    with pytest.raises(Unusable):
        read_keys(document(IssuerKey(None, "EdDSA"), IssuerKey(None, "EdDSA")), "EdDSA")
    assert list(read_keys(document(ONE, TWO), "EdDSA")) == ["one", "two"]


def test_a_document_has_only_so_many_keys() -> None:
    many = [ONE.jwk | {"kid": str(number)} for number in range(MOST + 50)]
    assert len(read_keys(document(*many), "EdDSA")) == MOST


# -- the address --------------------------------------------------------------------------------------------------


def test_what_is_at_the_address_is_read() -> None:
    with issuing() as issuer:
        issuer.publish(ONE)
        assert list(read_keys(download(issuer.address), "EdDSA")) == ["one", None]
        issuer.body += b" " * (LONGEST - len(issuer.body))
        assert len(download(issuer.address)) == LONGEST
        issuer.body += b" "
        with pytest.raises(Unusable, match="longer"):
            download(issuer.address)


@pytest.mark.parametrize("status", [204, 301, 302, 307, 308, 401, 404, 500])
def test_nothing_but_200_is_taken_and_no_redirection_followed(status: int) -> None:
    with issuing() as issuer, issuing() as other:
        other.publish(ONE)
        issuer.status, issuer.headers = status, {"Location": other.address}
        with pytest.raises(Unusable):
            download(issuer.address)
        assert other.asked == 0


def test_a_certificate_that_nobody_vouches_for_is_not_believed(tmp_path: Path) -> None:
    key, name = EC.private, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "both.pem"
    plain = serialization.NoEncryption()
    pem.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with issuing(context=context) as issuer:
        issuer.publish(ONE)
        assert issuer.address.startswith("https://")
        with pytest.raises(ssl.SSLCertVerificationError):
            download(issuer.address)
        assert issuer.asked == 0


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"])
def test_an_answer_that_drips_is_cut_off(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "PATIENCE", 0.4)
    done = Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(head)
            while not done.wait(0.05):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=drip, args=(listener,))
        thread.start()
        begun = time.monotonic()
        try:
            _tolerant(lambda: read_keys(download(f"http://127.0.0.1:{listener.getsockname()[1]}/"), "EdDSA"))
        finally:
            done.set()
            thread.join(10)
    assert time.monotonic() - begun < 5


def _tolerant(work: Callable[[], Any]) -> None:
    """It fails, in one of the ways that are known to those who ask."""
    with pytest.raises((OSError, Unusable, keys_module.http.client.HTTPException)):
        work()
