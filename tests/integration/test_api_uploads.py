"""Uploads over HTTP: what is kept, what is refused, and that a refused one leaves nothing."""

import http.client
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from msgspec import structs

from services.api.app import create_app
from services.api.uploads import PIECE
from shared import models
from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.depots import Depot, DirectoryDepot, depot
from tests.support.s3_server import s3_server
from tests.support.small_disk import longest_file
from tests.support.web import assert_problem, client, decoded, served, wrong_paths

__all__ = ["depot", "s3_server"]

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF"
LIMIT = 2**20


@pytest.fixture
def narrow(settings: Settings, depot: Depot) -> Settings:
    return structs.replace(settings, max_upload=LIMIT, uploads=depot.place)


@pytest.fixture
def address(narrow: Settings) -> Iterator[str]:
    with served(create_app(narrow)) as address:
        yield address


@pytest.fixture
def anna(address: str, narrow: Settings) -> Iterator[httpx.Client]:
    with client(address, narrow) as anna:
        yield anna


directory_only = pytest.mark.parametrize("depot", ["directory"], indirect=True)


def test_a_file_is_kept(anna: httpx.Client, depot: Depot, engine: sa.Engine) -> None:
    content = JPEG + b"\r\n--boundary\r\n" * 70_000
    reply = anna.post("/api/uploads", files={"file": ("C:\\photos\\salon 1.png", content, "image/png")})
    said = decoded(reply)
    assert reply.status_code == 201
    assert depot.everything() == [said["uploadId"]]
    assert depot.content(said["uploadId"]) == content
    if isinstance(depot, DirectoryDepot):
        assert stat.S_IMODE((depot.place / said["uploadId"]).stat().st_mode) == 0o600
    expires = datetime.fromisoformat(said.pop("expiresAt"))
    assert timedelta(hours=23) < expires - datetime.now(UTC) < timedelta(hours=25)
    assert said == {
        "uploadId": depot.names()[0],
        "name": "salon 1.png",
        "size": len(content),
        "contentType": "image/jpeg",
    }
    with engine.connect() as connection:
        row = connection.execute(sa.select(models.uploads)).one()
    assert (row.owner, row.name, row.size, row.content_type) == ("anna", "salon 1.png", len(content), "image/jpeg")


def test_a_file_of_any_size_that_is_allowed_is_kept_byte_by_byte(anna: httpx.Client, depot: Depot) -> None:
    for size in (1, 2**16 - 1, PIECE, PIECE + 1, LIMIT - 1, LIMIT):
        content = (bytes(range(251)) * (size // 251 + 1))[:size]
        said = decoded(anna.post("/api/uploads", files={"file": ("x", content)}))
        assert said["size"] == size
        assert depot.content(said["uploadId"]) == content


def part(name: str = "file", content: bytes = b"x", filename: str | None = "a") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


END = b"--b--\r\n"

# body, the status of the reply, the fields that it names
BODIES: list[tuple[bytes, int, list[str]]] = [
    (END, 422, ["file"]),
    (part(content=b"") + END, 422, ["file"]),
    (part("photo") + END, 422, ["photo", "file"]),
    (part() + part() + END, 422, ["file"]),
    (part() + part("title", b"Salon", None) + END, 422, ["title"]),
    (part("a\0\n") + END, 422, ["a", "file"]),
    (b"", 400, []),
    (b"--b", 400, []),
    (part(), 400, []),
    (part()[:-2], 400, []),
    (part()[:20], 400, []),
    (b"nonsense", 400, []),
    (b"--b\r\n\r\nx\r\n" + END, 400, []),
    (b"--b\r\nContent-Disposition: attachment\r\n\r\nx\r\n" + END, 400, []),
    (b"--b\r\nContent-Disposition: form-data; name=\xff\r\n\r\nx\r\n" + END, 400, []),
    (b"--b\r\n" + b"A: b\r\n" * 100 + b"\r\nx\r\n" + END, 400, []),
    (b"--b\r\nA: " + b"b" * 10_000 + b"\r\n\r\nx\r\n" + END, 400, []),
    (part(content=b"") * 101 + END, 400, []),
    (part(filename=None) + END, 201, []),
    (part() + END + b"an epilogue", 201, []),
    (b"a preamble\r\n" + part() + END, 201, []),
]


def test_bodies(anna: httpx.Client, depot: Depot) -> None:
    kept = 0
    for body, status, fields in BODIES:
        reply = anna.post("/api/uploads", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert (body[:200], reply.status_code) == (body[:200], status), reply.text
        if status == 422:
            assert (body[:200], wrong_paths(reply)) == (body[:200], fields)
        elif status == 400:
            assert_problem(reply, 400, "malformed")
        kept += status == 201
        assert len(depot.everything()) == kept, body[:200]


def test_a_multipart_body_has_a_boundary(anna: httpx.Client) -> None:
    for parameters in ("", "; boundary=", "; x=y"):
        headers = {"Content-Type": f"multipart/form-data{parameters}"}
        assert_problem(anna.post("/api/uploads", content=END, headers=headers), 400, "malformed")


def test_a_file_that_is_too_long_is_refused_and_leaves_nothing(anna: httpx.Client, depot: Depot) -> None:
    reply = anna.post("/api/uploads", files={"file": ("x", b"x" * (LIMIT + 1))})
    assert_problem(reply, 413, "too_large")
    reply = anna.post("/api/uploads", files={"file": ("x", b"x" * (2 * LIMIT))})
    assert_problem(reply, 413, "too_large")

    def chunked() -> Iterator[bytes]:
        yield part(content=b"x" * LIMIT)[:-2]
        yield b"x"
        yield b"\r\n" + END

    reply = anna.post("/api/uploads", content=chunked(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert_problem(reply, 413, "too_large")
    assert depot.everything() == []


def test_it_answers_before_all_of_a_file_that_is_too_long_was_sent(anna: httpx.Client, depot: Depot) -> None:
    with sending(anna) as connection:
        send_chunk(connection, part(content=b"x" * (LIMIT + PIECE))[:-2])
        reply = connection.getresponse()  # the body has not ended
        assert reply.status == 413
    assert depot.everything() == []


def test_an_upload_that_breaks_off_leaves_nothing(settings: Settings, depot: Depot, engine: sa.Engine) -> None:
    settings = structs.replace(settings, uploads=depot.place)
    with served(create_app(settings)) as address, client(address, settings) as anna:
        with sending(anna) as connection:
            send_chunk(connection, part(content=b"x" * 11 * 2**20)[:-2])
            wait_for(depot.unfinished, "the file to be begun")
            assert depot.names() == []
        wait_for(lambda: not depot.everything(), "the file to be removed")
    with engine.connect() as connection_:
        assert connection_.execute(sa.select(models.uploads)).all() == []


@contextmanager
def sending(api: httpx.Client) -> Iterator[http.client.HTTPConnection]:
    """A chunked upload that goes on as long as the test likes."""
    connection = http.client.HTTPConnection(api.base_url.host, api.base_url.port, timeout=10)
    try:
        connection.putrequest("POST", "/api/uploads")
        connection.putheader("Authorization", api.headers["authorization"])
        connection.putheader("Content-Type", "multipart/form-data; boundary=b")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        yield connection
    finally:
        if connection.sock is not None:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()


def send_chunk(connection: http.client.HTTPConnection, data: bytes) -> None:
    connection.send(b"%x\r\n%b\r\n" % (len(data), data))


@directory_only
def test_a_full_disk_is_said_and_leaves_nothing(anna: httpx.Client, depot: Depot, engine: sa.Engine) -> None:
    with longest_file(300_000):
        reply = anna.post("/api/uploads", files={"file": ("x", b"x" * 900_000)})
    assert_problem(reply, 507, "disk_full")
    assert depot.everything() == []
    with engine.connect() as connection:
        assert connection.execute(sa.select(models.uploads)).all() == []
    assert anna.post("/api/uploads", files={"file": ("x", b"x" * 900_000)}).status_code == 201


def test_many_at_once_do_not_mix(anna: httpx.Client, depot: Depot) -> None:
    contents = [bytes([number]) * (400_000 + number) for number in range(12)]

    def send(content: bytes) -> Any:
        return decoded(anna.post("/api/uploads", files={"file": ("x", content)}))

    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(send, contents))
    for reply, content in zip(replies, contents, strict=True):
        assert depot.content(reply["uploadId"]) == content


def test_an_upload_whose_row_cannot_be_stored_leaves_nothing(
    anna: httpx.Client, depot: Depot, engine: sa.Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE uploads RENAME TO elsewhere"))
    assert_problem(anna.post("/api/uploads", files={"file": ("x", b"x" * 900_000)}), 500, "internal")
    assert depot.everything() == []
