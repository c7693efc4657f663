"""Headway's HTTP interface, as much of it as the commands need."""

import os
import ssl
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import certifi
import httpx

from infra.cli.errors import CliError

_TIMEOUT = 30.0
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}

Token = Callable[[], str]
"""Called for each request: a token may expire while we watch."""


class Refused(CliError):
    """An answer of the server's that is an error."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(complaint(response))
        self.status = response.status_code


class Api:
    """One server, one owner. Everything raises CliError with a sentence when it is refused or the server is away."""

    def __init__(self, address: str, token: Token, client: type[httpx.Client] = httpx.Client) -> None:
        parts = parted(address)
        self.address = address.rstrip("/")
        self._token = token
        # a proxy of the environment is for other machines
        self.client = client(
            base_url=self.address, timeout=_TIMEOUT, trust_env=parts.hostname not in _LOOPBACK, verify=trusted()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def upload(self, path: Path) -> str:
        """The upload's id."""
        with _readable(path) as file:
            return str(self._ask("POST", "/api/uploads", files={"file": (path.name, file)})["uploadId"])

    def create_batch(self, submission: Mapping[str, Any], *, key: str | None = None) -> dict[str, Any]:
        """`key`: the same one and the same submission again make no second batch."""
        more = {} if key is None else {"Idempotency-Key": key}
        return self._ask("POST", "/api/batches", more=more, json=submission)

    def add_jobs(self, batch_id: str, jobs: Sequence[Mapping[str, Any]], *, key: str | None = None) -> dict[str, Any]:
        """To an open batch; `key`: the same one and the same jobs again add nothing more."""
        more = {} if key is None else {"Idempotency-Key": key}
        return self._ask("POST", f"/api/batches/{batch_id}/jobs", more=more, json={"jobs": jobs})

    def batch(self, batch_id: str) -> dict[str, Any]:
        return self._ask("GET", f"/api/batches/{batch_id}")

    def control(self, batch_id: str, action: str) -> dict[str, Any]:
        """`cancel`, `close`, `pause`, `resume` or `retry-failed`."""
        return self._ask("POST", f"/api/batches/{batch_id}/{action}")

    def delete(self, batch_id: str) -> None:
        self._send("DELETE", f"/api/batches/{batch_id}")

    def jobs(self, batch_id: str) -> Iterator[dict[str, Any]]:
        """All of them, by position."""
        return self._items(f"/api/batches/{batch_id}/jobs")

    def timeline(self, batch_id: str) -> Iterator[dict[str, Any]]:
        """What happened, oldest first."""
        return self._items(f"/api/batches/{batch_id}/timeline")

    def workers(self) -> Iterator[dict[str, Any]]:
        """All of the installation's, the oldest first."""
        return self._items("/api/workers")

    def drain_worker(self, worker_id: str) -> dict[str, Any]:
        return self._ask("POST", f"/api/workers/{urllib.parse.quote(worker_id, safe='')}/drain")

    def log(self, batch_id: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """All log lines that the query asks for, as text, in pieces."""
        return self._pieces(f"/api/batches/{batch_id}/logs", {"format": "text", **query})

    def artifact(self, job_id: str, artifact_id: str) -> Iterator[bytes]:
        """A file, in pieces."""
        return self._pieces(f"/api/jobs/{job_id}/artifacts/{artifact_id}", {})

    def _pieces(self, path: str, query: Mapping[str, str]) -> Iterator[bytes]:
        try:
            with self.client.stream("GET", path, params=query, headers=self.headers()) as response:
                if response.is_error:
                    response.read()
                    raise CliError(complaint(response))
                yield from response.iter_bytes()
        except httpx.HTTPError as error:
            raise CliError(f"{self.address} did not send all of it: {error}") from None

    def absolute(self, address: str) -> str:
        """An address that the server gave out, which may be relative to its own."""
        return urllib.parse.urljoin(self.address + "/", address)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token()}"}

    def _items(self, path: str) -> Iterator[dict[str, Any]]:
        """A whole list, page by page."""
        cursor: str | None = ""
        while cursor is not None:
            query = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
            page = self._ask("GET", path, params=query)
            yield from page["items"]
            cursor = page["nextCursor"]

    def _send(
        self, method: str, path: str, *, more: Mapping[str, str] = MappingProxyType({}), **content: Any
    ) -> httpx.Response:
        """`more`: headers."""
        try:
            response = self.client.request(method, path, headers={**self.headers(), **more}, **content)
        except httpx.HTTPError as error:
            raise CliError(f"{self.address} does not answer: {error}") from None
        if response.is_error:
            raise Refused(response)
        return response

    def _ask(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        response = self._send(method, path, **content)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise CliError(f"{self.address} answered with something else than JSON; is that Headway?")
        return answer


def parted(address: str) -> urllib.parse.SplitResult:
    """Raises CliError if that is no address of a server."""
    try:
        parts = urllib.parse.urlsplit(address)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError as error:
        raise CliError(f"{address} is not an address: {error}") from None
    if not usable:
        raise CliError(f"{address} is not an address; expected http://… or https://…")
    return parts


def complaint(response: httpx.Response) -> str:
    """A refusal in words, from its problem+json."""
    try:
        problem = response.json()
        words = [problem["detail"], *(f"{error['path']} {error['message']}" for error in problem.get("errors") or ())]
        return "; ".join(words)
    except (ValueError, KeyError, TypeError):
        phrase = HTTPStatus(response.status_code).phrase if response.status_code in _STATUSES else "?"
        return f"{response.request.url.host} answered {response.status_code} {phrase}"


_STATUSES = {status.value for status in HTTPStatus}


@contextmanager
def _readable(path: Path) -> Iterator[Any]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        yield file


def trusted() -> ssl.SSLContext:
    """The usual authorities, and those of SSL_CERT_FILE beside them: what has no other authority is its own.

    Raises CliError if that file cannot be read.
    """
    context = ssl.create_default_context(cafile=certifi.where())
    if own := os.environ.get("SSL_CERT_FILE"):
        try:
            context.load_verify_locations(own)
        except OSError as error:  # ssl.SSLError is one
            raise CliError(f"SSL_CERT_FILE: {own} cannot be used: {error.strerror or error}") from None
    return context
