"""The OpenAPI document, its page, and the pages that the types of errors lead to."""

from collections.abc import Iterator

import httpx
import pytest

from services.api.app import create_app
from services.api.openapi import DOCUMENT
from shared.errors import all_errors
from shared.settings import Settings
from tests.support.web import assert_problem, served


@pytest.fixture
def anybody(settings: Settings) -> Iterator[httpx.Client]:
    with served(create_app(settings)) as address, httpx.Client(base_url=address, trust_env=False) as anybody:
        yield anybody


def test_the_document_is_for_everybody_and_sent_once(anybody: httpx.Client) -> None:
    reply = anybody.get("/openapi.json")
    assert (reply.status_code, reply.content) == (200, DOCUMENT)
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["openapi"] == "3.1.0"
    again = anybody.get("/openapi.json", headers={"If-None-Match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_its_page_loads_what_this_server_has(anybody: httpx.Client) -> None:
    page = anybody.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for name, beginning in {"swagger-ui.css": b".swagger-ui", "swagger-ui-bundle.js": b"/*! For license"}.items():
        reply = anybody.get(f"/docs/{name}")
        assert reply.status_code == 200
        assert reply.content.startswith(beginning)
        assert name in page.text


@pytest.mark.parametrize("name", ["swagger-editor.js", "index.css", "LICENSE", "..%2f__init__.py", "%00", "x"])
def test_nothing_else_of_that_package_is_served(anybody: httpx.Client, name: str) -> None:
    assert_problem(anybody.get(f"/docs/{name}"), 404, "not_found")


def test_the_type_of_every_error_leads_somewhere(anybody: httpx.Client) -> None:
    for error in all_errors():
        reply = anybody.get(f"/problems/{error.code}")
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
        assert f"<code>{error.status}</code>" in reply.text
        assert error.title in reply.text
    unknown = assert_problem(anybody.get("/problems/nonsense"), 404, "not_found")
    assert anybody.get(unknown["type"]).status_code == 200
