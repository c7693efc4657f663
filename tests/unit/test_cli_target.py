"""Whom commands believe, and as whom they come, where nobody has named a token: as in the image for operators."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from infra.certificate import make_certificate
from infra.cli.api import Api
from infra.cli.errors import CliError
from infra.cli.target import find_api, strangers_token
from tests.support.web import served

SECRET = "s" * 40


async def answers(scope: Any, receive: Any, send: Any) -> None:
    """An application that says `{}` to everything."""
    if scope["type"] == "lifespan":
        for said in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{said}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


def test_a_secret_beside_an_address_makes_tokens_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path))
    monkeypatch.setenv("HEADWAY_URL", "https://gateway:8443/")
    monkeypatch.setenv("HEADWAY_SECRET", SECRET)
    assert find_api(None, None).headers()["Authorization"].startswith("Bearer ey")
    assert strangers_token("https://gateway:8443", None)
    assert strangers_token("https://gateway:8443", "mine") is None


@pytest.mark.parametrize("missing", ["HEADWAY_URL", "HEADWAY_SECRET"])
def test_no_other_address_gets_one(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path))
    monkeypatch.setenv("HEADWAY_URL", "https://gateway:8443")
    monkeypatch.setenv("HEADWAY_SECRET", SECRET)
    with pytest.raises(CliError, match="A token for"):
        find_api("https://elsewhere.test", None)
    monkeypatch.delenv(missing)
    with pytest.raises(CliError, match="A token for"):
        find_api("https://gateway:8443", None)


def test_an_own_certificate_is_believed_when_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    with served(answers, ssl_context_factory=lambda *_: context) as address:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with Api(address, lambda: "x") as api, pytest.raises(CliError, match="certificate"):
            api.batch("x")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        with Api(address, lambda: "x") as api:
            assert api.batch("x") == {}
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(CliError, match=r"SSL_CERT_FILE: .*none\.pem cannot be used"):
        Api(address, lambda: "x")
