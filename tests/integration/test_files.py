"""Files in a directory and in a bucket of a real S3 server: the same behaviour."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from botocore.config import Config
from structlog.testing import capture_logs

from shared.errors import DiskFull, Unavailable
from shared.files import PIECE, Files, make_files, pieces
from shared.files.bucket import _OPTIONS
from shared.settings import Bucket, Settings
from tests.support.depots import BucketDepot, Depot, depot, in_bucket
from tests.support.s3_server import BUCKET, S3Server, own_s3_server, point_at, s3_server

__all__ = ["depot", "own_s3_server", "s3_server"]

MIB = 2**20
KEY = "a key for tests, of 32 bytes or more"


def files_at(place: Path | Bucket) -> Files:
    return make_files(Settings(database_url="", redis_url="", secret=KEY, ticket_key=KEY, uploads=place))


@pytest.fixture
def files(depot: Depot) -> Files:
    return files_at(depot.place)


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 5 * MIB, 5 * MIB + 1, 25 * MIB])
def test_a_file_is_kept_byte_by_byte(files: Files, depot: Depot, size: int) -> None:
    content, file_id = os.urandom(size), uuid4()
    incoming = files.receive(file_id)
    for start in range(0, size, 300_000):
        incoming.write(content[start : start + 300_000])
    assert depot.names() == [], "it is not found before it is complete"
    with pytest.raises(FileNotFoundError):
        files.read(file_id, 0, 1)
    incoming.keep()
    assert (incoming.size, depot.everything()) == (size, [str(file_id)])
    assert depot.content(file_id) == content
    assert b"".join(pieces(files, file_id)) == content
    assert files.read(file_id, size // 2, 10) == content[size // 2 : size // 2 + 10]
    assert files.read(file_id, size, 10) == b""


def test_what_is_given_up_leaves_nothing(files: Files, depot: Depot) -> None:
    for size in (0, 1, 6 * MIB):
        incoming = files.receive(uuid4())
        incoming.write(b"x" * size)
        incoming.discard()
        incoming.discard()
        assert depot.everything() == []
        incoming = files.receive(uuid4())
        incoming.write(b"x" * size)
        incoming.keep()
        incoming.discard()  # nobody was told of it
        assert depot.everything() == []


def test_a_removed_file_is_gone_and_may_be_removed_again(files: Files, depot: Depot) -> None:
    gone, other = uuid4(), uuid4()
    depot.put(gone, b"x")
    depot.put(other, b"y")
    for _ in range(2):
        files.remove(gone)
        with pytest.raises(FileNotFoundError):
            files.read(gone, 0, 1)
        with pytest.raises(FileNotFoundError):
            next(pieces(files, gone))
    assert depot.names() == [str(other)]


def test_what_a_process_that_died_left_is_removed_in_time(
    files: Files, depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, whole = uuid4(), uuid4()
    incoming = files.receive(left)
    incoming.write(b"x" * 6 * MIB)
    depot.put(whole, b"x")
    files.tidy()
    assert (depot.unfinished(), depot.names()) == ([str(left)], [str(whole)]), "it may be under way"
    monkeypatch.setattr("shared.files.directory.STALE", -1)
    if isinstance(depot, BucketDepot):
        monkeypatch.setattr("shared.files.bucket.STALE", -1)
        depot.server.client.create_multipart_upload(Bucket=BUCKET, Key=f"{depot.place.prefix}/not one of ours")
        files.tidy()
        assert depot.unfinished() == ["not one of ours"]
    else:
        files.tidy()
        assert depot.unfinished() == []
    assert depot.names() == [str(whole)]
    incoming.discard()


def test_many_at_once_do_not_mix(files: Files, depot: Depot) -> None:
    def store(number: int) -> bool:
        content, file_id = bytes([number]) * (6 * MIB + number), uuid4()
        incoming = files.receive(file_id)
        for start in range(0, len(content), MIB):
            incoming.write(content[start : start + MIB])
        incoming.keep()
        return b"".join(pieces(files, file_id)) == content

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(store, range(6)))


def test_a_store_that_is_away_is_said_once_and_used_again_when_it_is_back(
    own_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    depot = in_bucket(own_s3_server, monkeypatch)
    files = files_at(depot.place)
    kept, begun = uuid4(), files.receive(uuid4())
    depot.put(kept, b"x")
    begun.write(b"x" * 6 * MIB)
    with capture_logs() as logs:
        own_s3_server.stop()
        for _ in range(2):
            with pytest.raises(Unavailable):
                files.read(kept, 0, 1)
            with pytest.raises(Unavailable):
                files.remove(kept)
            with pytest.raises(Unavailable):
                begun.keep()
            with pytest.raises(Unavailable):
                files.receive(uuid4()).keep()
        assert not begun.discard(), "it may be there"
        own_s3_server.start()
        assert files.read(kept, 0, 1) == b"x"
        assert begun.discard()
    assert [(entry["event"], entry.get("error")) for entry in logs] == [
        ("s3 is away", "EndpointConnectionError"),
        ("s3 is back", None),
    ]
    assert depot.everything() == [str(kept)]


def test_a_store_that_stands_still_is_away(own_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.files.bucket._OPTIONS", _OPTIONS.merge(Config(read_timeout=1)))
    depot = in_bucket(own_s3_server, monkeypatch)
    files = files_at(depot.place)
    kept = uuid4()
    depot.put(kept, b"x")
    assert files.read(kept, 0, 1) == b"x"
    own_s3_server.freeze()
    with pytest.raises(Unavailable):
        files.read(kept, 0, 1)
    own_s3_server.thaw()
    assert files.read(kept, 0, 1) == b"x"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "another"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "XAdminUserNotFound"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "NoCredentialsError"),
        ({"AWS_ENDPOINT_URL_S3": "nonsense"}, "InvalidEndpoint"),
    ],
)
def test_a_store_that_refuses_us_is_away_and_it_is_said_why(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict[str, str], error: str
) -> None:
    depot = in_bucket(s3_server, monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))  # no keys there
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    refused(depot.place, error)


def test_a_bucket_that_is_not_there_is_away(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(s3_server, monkeypatch)
    refused(Bucket("another-bucket", "files"), "NoSuchBucket")


def refused(place: Path | Bucket, error: str) -> None:
    files = files_at(place)
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(Unavailable):
                files.read(uuid4(), 0, 1)
            with pytest.raises(Unavailable):
                files.receive(uuid4()).keep()
            with pytest.raises(Unavailable):
                files.tidy()
    assert [(entry["event"], entry["error"]) for entry in logs] == [("s3 is away", error)]


def test_where_files_are_in_a_directory_nothing_of_s3_is_loaded(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
import services.api.app, services.worker.process
from shared.files import make_files
from shared.settings import Settings
settings = Settings(database_url="", redis_url="", secret="{KEY}", ticket_key="{KEY}", uploads=Path({str(tmp_path)!r}))
make_files(settings).prepare()
assert not {{"boto3", "botocore"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_directory_is_made_for_nobody_else(tmp_path: Path) -> None:
    root = tmp_path / "made" / "here"
    files_at(root).prepare()
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_a_store_that_is_full_says_so_and_keeps_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3Server(tmp_path / "s3", space=9 * MIB)
    server.start()
    try:
        server.client.create_bucket(Bucket=BUCKET)
        depot = in_bucket(server, monkeypatch)
        files = files_at(depot.place)
        kept = uuid4()
        depot.put(kept, b"x" * 3 * MIB)
        incoming = files.receive(uuid4())
        with pytest.raises(DiskFull):
            incoming.write(b"x" * 15 * MIB)
        incoming.discard()
        assert depot.everything() == [str(kept)]
        incoming = files.receive(uuid4())
        incoming.write(b"x" * 5 * MIB)
        incoming.keep()
        assert len(depot.names()) == 2
    finally:
        server.stop(for_good=True)
