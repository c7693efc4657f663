"""Pages and static files: served to everybody, and never anything else of the disk."""

import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from services.api.app import create_app
from services.api.pages import ROOTS, find
from shared.settings import Settings
from tests.support.web import assert_problem, served


@pytest.fixture
def anybody(settings: Settings) -> Iterator[httpx.Client]:
    with served(create_app(settings)) as address, httpx.Client(base_url=address, trust_env=False) as anybody:
        yield anybody


def raw_get(address: httpx.URL, target: str) -> bytes:
    """The reply to a path that a client library would have tidied up."""
    with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        reply = b""
        while data := connection.recv(65536):
            reply += data
    return reply


def test_pages_load_nothing_from_elsewhere_and_tell_nobody_their_address(anybody: httpx.Client) -> None:
    for path in ("/", f"/batches/{uuid4()}", "/static/page.css", "/static/headway.js"):
        reply = anybody.get(path)
        assert reply.status_code == 200, path
        policy = reply.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cache-control"] == "no-cache"
        head = anybody.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(reply.content))


def test_types_are_what_browsers_insist_on(anybody: httpx.Client) -> None:
    types = {
        "/": "text/html; charset=utf-8",
        "/static/page.css": "text/css; charset=utf-8",
        "/static/headway.js": "text/javascript; charset=utf-8",
        "/static/icon.svg": "image/svg+xml",
    }
    assert {path: anybody.get(path).headers["content-type"] for path in types} == types


def test_what_a_browser_has_is_not_sent_again(anybody: httpx.Client) -> None:
    first = anybody.get("/static/page.css")
    etag = first.headers["etag"]
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        again = anybody.get("/static/page.css", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b""), known
        assert again.headers["etag"] == etag
    assert anybody.get("/static/page.css", headers={"If-None-Match": '"other"'}).status_code == 200


def test_nothing_outside_the_two_directories_is_served(anybody: httpx.Client) -> None:
    for path in ("", "nonsense.js", "../app.py", "app.py", ".js", "%00", "%00.js", "page.css/x"):
        reply = anybody.get(f"/static/{path}")
        assert_problem(reply, 404, "not_found")
    for target in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fresources.py",
        "/static/%2fetc/hosts",
        "/static//etc/passwd",
        "/static/..\\..\\pyproject.toml",
        "/static/../../../package.json",
        "/batches/../../app.py",
    ):
        reply = raw_get(anybody.base_url, target)
        assert b" 404 " in reply.split(b"\r\n", 1)[0], target
        assert b"application/problem+json" in reply


def test_a_link_does_not_lead_outside(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for directory in (root / "deep", outside):
        directory.mkdir(parents=True)
    (outside / "secret.js").write_text("secret")
    (root / "deep" / "open.js").write_text("open")
    (root / "notes.txt").write_text("not for browsers")
    (root / "secret.js").symlink_to(outside / "secret.js")
    (root / "inner.js").symlink_to(root / "deep" / "open.js")
    assert find((root,), "secret.js") is None
    assert find((root,), "../outside/secret.js") is None
    assert find((root,), "notes.txt") is None
    assert find((root,), "deep") is None
    assert find((root,), "deep/open.js") == find((root,), "inner.js") == (root / "deep" / "open.js")
    assert find((outside, root), "deep/open.js") == root / "deep" / "open.js"


def test_no_page_needs_a_token_and_no_file_stands_in_both_places(anybody: httpx.Client) -> None:
    assert anybody.get("/health/live").status_code == 200
    names = [{path.name for path in root.iterdir()} for root in ROOTS]
    assert not names[0] & names[1]
