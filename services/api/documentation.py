"""What this server does, for programs (`/openapi.json`) and for people (`/docs`, `/problems/…`), without a token."""

import re
from html import escape
from importlib.util import find_spec
from pathlib import Path
from string import Template

from litestar import Response, route
from litestar.params import FromPath

from services.api.openapi import DOCUMENT, VIEWER
from services.api.pages import METHODS, PAGES, POLICY, AnyRequest, sent
from shared.errors import HeadwayError, NotFound, all_errors

_VIEWER_POLICY = f"{POLICY}; img-src 'self' data:"
"""Swagger UI's style sheet holds its arrows and signs in itself."""


def _viewer_files() -> Path:
    # looked for, not imported: the package's own code serves a page, and loads more than this service needs
    spec = find_spec("swagger_ui")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("swagger-ui-py is not installed")
    return Path(spec.submodule_search_locations[0]) / "static"


def _page(template: Template, error: type[HeadwayError]) -> bytes:
    when = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(error.when))
    return template.substitute(code=error.code, status=error.status, title=escape(error.title), when=when).encode()


_TEMPLATE = Template((PAGES / "problem.html").read_text())
_PROBLEMS = {error.code: _page(_TEMPLATE, error) for error in all_errors()}
_FILES = _viewer_files()


@route("/openapi.json", http_method=METHODS, sync_to_thread=False)
def openapi(request: AnyRequest) -> Response[bytes]:
    return sent(request, DOCUMENT, "application/json")


@route("/docs", http_method=METHODS, sync_to_thread=True)
def docs(request: AnyRequest) -> Response[bytes]:
    return sent(request, (PAGES / "docs.html").read_bytes(), "text/html", _VIEWER_POLICY)


@route("/docs/{name:str}", http_method=METHODS, sync_to_thread=True)
def viewer(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    if name not in VIEWER:
        raise NotFound
    return sent(request, (_FILES / name).read_bytes(), VIEWER[name])


@route("/problems/{code:str}", http_method=METHODS, sync_to_thread=False)
def problem(request: AnyRequest, code: FromPath[str]) -> Response[bytes]:
    """Where the `type` of an error leads."""
    if code not in _PROBLEMS:
        raise NotFound
    return sent(request, _PROBLEMS[code], "text/html")


ROUTES = (openapi, docs, viewer, problem)
