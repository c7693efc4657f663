"""Users' tokens by JWKS: api and stream against a real address with real keys of every kind."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Thread
from typing import Any, NamedTuple

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from msgspec.structs import replace

from infra.web import Web
from services.api.app import create_app as create_api
from services.stream.app import create_app as create_stream
from shared.auth import issue_token
from shared.settings import Settings
from tests.support.jwks import ALGORITHMS, Issuer, IssuerKey, document, issuing
from tests.support.ports import own_port
from tests.support.sse import Stream
from tests.support.web import assert_problem, decoded, served, submit

KEYS = {algorithm: IssuerKey("k1", algorithm) for algorithm in ALGORITHMS}
RSA, RSA2 = KEYS["RS256"], IssuerKey("k2")


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as issuer:
        issuer.publish(RSA)
        yield issuer


class Place(NamedTuple):
    address: str
    settings: Settings
    issuer: Issuer

    def ask(self, token: str, path: str = "/api/kinds", **options: Any) -> httpx.Response:
        method = options.pop("method", "GET")
        headers = {"Authorization": f"Bearer {token}"} | options.pop("headers", {})
        return httpx.request(method, f"{self.address}{path}", headers=headers, trust_env=False, timeout=20, **options)

    def stream(self, token: str | None, batch_id: str, **query: Any) -> Stream:
        return Stream(self.address, batch_id, token, **query)


@pytest.fixture
def open_place(settings: Settings, issuer: Issuer) -> Iterator[Any]:
    """Both services at one address, as `make run` has them."""
    with ExitStack() as stack:

        def opened(algorithm: str = "RS256", **changes: Any) -> Place:
            changed = replace(
                settings, **{"secret": None, "jwks_url": issuer.address, "jwks_algorithm": algorithm} | changes
            )
            address = stack.enter_context(served(Web(create_api(changed), create_stream(changed))))
            return Place(address, changed, issuer)

        yield opened


@pytest.fixture
def place(open_place: Any) -> Place:
    opened: Place = open_place()
    return opened


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_batch_by_each_algorithm(open_place: Any, issuer: Issuer, algorithm: str) -> None:
    key = KEYS[algorithm]
    issuer.publish(*KEYS.values())
    place = open_place(algorithm)
    token = key.token("anna@example.org")
    with httpx.Client(
        base_url=place.address, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=20
    ) as anna:
        batch = submit(anna)
        assert batch["owner"] == "anna@example.org"
    with place.stream(token, batch["batchId"]) as stream:
        assert stream.status == 200
        stream.delta()
    # a ticket is ours, whoever issued the token
    ticket = batch["streamUrl"].partition("ticket=")[2]
    assert jwt.get_unverified_header(ticket)["alg"] == "HS256"
    with place.stream(None, batch["batchId"], ticket=ticket) as stream:
        stream.delta()
    asked = issuer.asked
    for other in set(ALGORITHMS) - {algorithm}:
        assert_problem(place.ask(KEYS[other].token()), 401, "unauthenticated")
    assert issuer.asked == asked, "a token of another algorithm is no reason to look for a key"
    assert asked == 2, "once for each service"


def encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def test_every_forgery_is_refused(place: Place, settings: Settings) -> None:
    good = RSA.token()
    assert place.ask(good).status_code == 200
    public = RSA.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    header, payload, signature = good.split(".")
    claims = {"sub": "anna", "iss": "headway", "aud": "headway", "exp": int(time.time()) + 3600}
    stranger = IssuerKey("k1")
    forged = [
        issue_token(settings, "anna"),  # by a secret, which this installation has not
        jwt.encode(claims, base64.b64encode(public).decode(), algorithm="HS256", headers={"kid": "k1"}),
        _signed_with(public, claims, {"alg": "HS256", "kid": "k1"}),
        jwt.encode(claims, None, algorithm="none", headers={"kid": "k1"}),  # type: ignore[arg-type]
        f"{encoded({'alg': 'none', 'kid': 'k1'})}.{payload}.",
        f"{encoded({'alg': 'RS512', 'kid': 'k1'})}.{payload}.{signature}",
        jwt.encode(claims, RSA.private, algorithm="RS512", headers={"kid": "k1"}),
        jwt.encode(claims, RSA.private, algorithm="PS256", headers={"kid": "k1"}),
        stranger.token(),
        stranger.token(headers={"jwk": stranger.jwk, "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}),
        f"{header}.{payload}.",
        f"{header}.{encoded(claims | {'sub': 'bert'})}.{signature}",
        RSA.token(headers={"kid": "unknown"}),
        f"{encoded({'alg': 'RS256', 'kid': 7})}.{payload}.{signature}",
        f"{encoded({'alg': ['RS256'], 'kid': 'k1'})}.{payload}.{signature}",
        f"{encoded({'kid': 'k1'})}.{payload}.{signature}",
        RSA.token(headers={"kid": "../../k1"}),
        RSA.token(headers={"crit": ["exp"]}),
        RSA.token(iss="another"),
        RSA.token(iss=None),
        RSA.token(aud="another"),
        RSA.token(aud=None),
        RSA.token(sub=None),
        RSA.token(""),
        RSA.token("x" * 256),
        RSA.token(exp=None),
        RSA.token(exp=time.time() - 1),
        RSA.token(exp="soon"),
        RSA.token(exp=float("inf")),
        RSA.token(exp=10**400),
        RSA.token(nbf=time.time() + 120),
        RSA.token(nbf="later"),
        RSA.token(nbf=[]),
        RSA.token(scope=["read"]),
        "x" * 9000,
        f"{header}.{payload}",
        "é.é.é",
    ]
    batch_id = decoded(place.ask(good, "/api/batches", method="POST", json=BATCH))["batchId"]
    for number, token in enumerate(forged):
        header_value = {"Authorization": f"Bearer {token}".encode()}
        reply = httpx.get(f"{place.address}/api/kinds", headers=header_value, trust_env=False)
        assert (number, reply.status_code) == (number, 401)
        assert_problem(reply, 401, "unauthenticated")
        reply = httpx.get(f"{place.address}/api/batches/{batch_id}/stream", headers=header_value, trust_env=False)
        assert (number, reply.status_code) == (number, 401)
        reply = httpx.get(f"{place.address}/api/nonsense", headers=header_value, trust_env=False)
        assert (number, reply.status_code) == (number, 401)


def _signed_with(secret: bytes, claims: dict[str, Any], header: dict[str, Any]) -> str:
    """As a forger does it who uses the public key as a secret, which libraries refuse to do."""
    signed = f"{encoded({'typ': 'JWT'} | header)}.{encoded(claims)}"
    signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


BATCH = {"kind": "rehearsal", "title": "a rehearsal", "jobs": [{"name": "one", "params": {}}]}


def test_what_a_token_may_say(place: Place) -> None:
    soon = time.time() + 10
    accepted = [
        RSA.token(aud=["another", "headway"]),
        RSA.token(nbf=time.time() - 5),
        RSA.token(nbf=soon),  # the issuer's clock may be a little ahead
        RSA.token(iat=soon + 3600),
        RSA.token(scope="read openid profile"),
        RSA.token(exp=time.time() + 10**9),
    ]
    for token in accepted:
        assert place.ask(token).status_code == 200
    assert_problem(place.ask(RSA.token(scope="openid profile")), 403, "forbidden")
    assert_problem(place.ask(RSA.token(scope="")), 403, "forbidden")


def test_a_token_may_leave_its_key_unnamed_where_there_is_one_only(place: Place) -> None:
    unnamed = IssuerKey(None)
    place.issuer.publish(unnamed)
    assert place.ask(unnamed.token()).status_code == 200
    place.issuer.publish(RSA, RSA2)
    assert place.ask(RSA2.token()).status_code == 200
    assert_problem(place.ask(unnamed.token()), 401, "unauthenticated")


def test_a_rotated_key_is_found_and_a_withdrawn_one_refused(place: Place) -> None:
    assert place.ask(RSA.token()).status_code == 200
    place.issuer.publish(RSA, RSA2)
    assert place.ask(RSA2.token()).status_code == 200
    assert place.issuer.asked == 2
    third = IssuerKey("k3")
    place.issuer.publish(third)
    assert place.ask(third.token()).status_code == 200
    assert_problem(place.ask(RSA.token()), 401, "unauthenticated")
    for number in range(20):
        place.ask(third.token(headers={"kid": f"invented {number}"}))
    assert place.issuer.asked <= 4


def test_nobody_is_let_in_or_sent_away_while_keys_cannot_be_had(open_place: Any, issuer: Issuer) -> None:
    port = own_port()
    place = open_place(jwks_url=f"http://127.0.0.1:{port}/keys.json")
    reply = place.ask(RSA.token())
    assert_problem(reply, 503, "unavailable")
    assert int(reply.headers["retry-after"]) > 0
    assert_problem(place.ask(RSA.token(), "/api/nonsense"), 503, "unavailable")
    # what needs no key is decided all the same
    assert_problem(place.ask("x.y.z"), 401, "unauthenticated")
    with issuing(port) as back:
        back.publish(RSA)
        deadline = time.monotonic() + 15
        while (reply := place.ask(RSA.token())).status_code == 503:
            assert time.monotonic() < deadline
            time.sleep(min(1, int(reply.headers["retry-after"])))
        assert reply.status_code == 200
    # gone again: a key that is known goes on, one that is not cannot be told from one that was rotated in
    assert place.ask(RSA.token()).status_code == 200
    assert_problem(place.ask(RSA2.token()), 503, "unavailable")
    assert place.ask(RSA.token()).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{}", document(), document(KEYS["ES256"]), b"<html>"])
def test_a_document_without_keys_is_as_good_as_none(place: Place, body: bytes) -> None:
    place.issuer.body = body
    assert_problem(place.ask(RSA.token()), 503, "unavailable")
    with Stream(place.address, "00000000-0000-7000-8000-000000000000", RSA.token()) as stream:
        assert stream.status == 503
        assert int(stream.headers["retry-after"]) > 0


def test_an_address_that_hangs_stops_nobody_else(place: Place) -> None:
    """Fetching happens beside the event loop: whoever needs no key is served meanwhile."""
    assert place.ask(RSA.token()).status_code == 200
    place.issuer.free.clear()
    with httpx.Client(base_url=place.address, trust_env=False, timeout=20) as client, ExitStack() as stack:
        replies: list[httpx.Response] = []
        thread = Thread(target=lambda: replies.append(place.ask(RSA2.token())))
        thread.start()
        stack.callback(thread.join, 10)
        begun = time.monotonic()
        for _ in range(5):
            assert client.get("/health/live").status_code == 200
            assert client.get("/api/kinds", headers={"Authorization": f"Bearer {RSA.token()}"}).status_code == 200
        assert time.monotonic() - begun < 2
        assert not replies, "the other one still waits"
        place.issuer.publish(RSA, RSA2)
        place.issuer.free.set()
        thread.join(10)
        assert [reply.status_code for reply in replies] == [200]
