"""The web pages and what they load: files of two directories, without a token, each read when it is asked for."""

from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from uuid import UUID

from litestar import Request, Response, route
from litestar.datastructures import State
from litestar.enums import HttpMethod
from litestar.params import FromPath

from shared.errors import NotFound

PAGES = Path(__file__).parent / "web"
ROOTS = (PAGES, Path(__file__).parents[2] / "clients" / "js")
"""Where `/static/…` is looked for, in this order."""

# Anything else is not for browsers, and not served.
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"

_HEADERS = {
    "Cache-Control": "no-cache",  # that is: ask each time whether it has changed
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

AnyRequest = Request[object, object, State]
METHODS = (HttpMethod.GET, HttpMethod.HEAD)


@route("/", http_method=METHODS, sync_to_thread=True)
def home(request: AnyRequest) -> Response[bytes]:
    return _file(request, (PAGES,), "index.html")


@route("/batches/{batch_id:uuid}", http_method=METHODS, sync_to_thread=True)
def live_page(request: AnyRequest, batch_id: FromPath[UUID]) -> Response[bytes]:  # noqa: ARG001  # the page's script reads it
    return _file(request, (PAGES,), "batch.html")


@route("/static/{path:path}", http_method=METHODS, sync_to_thread=True)
def static(request: AnyRequest, path: FromPath[str]) -> Response[bytes]:
    return _file(request, ROOTS, str(path))


def _file(request: AnyRequest, roots: tuple[Path, ...], name: str) -> Response[bytes]:
    path = find(roots, name)
    if path is None:
        raise NotFound
    return sent(request, path.read_bytes(), TYPES[path.suffix])


def sent(request: AnyRequest, content: bytes, media_type: str, policy: str = POLICY) -> Response[bytes]:
    """The content, or 304 to whoever has it; `policy` says what a page may load."""
    etag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "Content-Security-Policy": policy, "ETag": etag}
    if _known(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(b"", status_code=HTTPStatus.NOT_MODIFIED, media_type=media_type, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def _known(if_none_match: str, etag: str) -> bool:
    known = {value.strip().removeprefix("W/") for value in if_none_match.split(",")}
    return bool(known & {etag, "*"})


def find(roots: tuple[Path, ...], name: str) -> Path | None:
    """The file of that name under the first root that has it; never one outside, not by `..` and not by a link."""
    for root in roots:
        try:
            path = (root / name.lstrip("/")).resolve()
        except ValueError:  # a NUL character
            return None
        if path.suffix in TYPES and path.is_relative_to(root.resolve()) and path.is_file():
            return path
    return None
