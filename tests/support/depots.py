"""Places for files, a directory and a bucket, and how a test looks into them without our code."""

from abc import ABC, abstractmethod
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from shared.settings import Bucket
from tests.support.s3_server import BUCKET, S3Server, point_at


class Depot(ABC):
    """A place for files, and how a test looks into it without our code."""

    place: Path | Bucket

    @abstractmethod
    def names(self) -> list[str]:
        """Of files that are complete."""

    @abstractmethod
    def unfinished(self) -> list[str]:
        """Names of files that are not."""

    @abstractmethod
    def content(self, file_id: UUID | str) -> bytes: ...

    @abstractmethod
    def put(self, file_id: UUID, content: bytes) -> None: ...

    def everything(self) -> list[str]:
        return [*self.names(), *self.unfinished()]


class DirectoryDepot(Depot):
    def __init__(self, place: Path) -> None:
        place.mkdir(exist_ok=True)
        self.place = place

    def names(self) -> list[str]:
        return sorted(path.name for path in self.place.iterdir() if not path.name.endswith(".part"))

    def unfinished(self) -> list[str]:
        return sorted(path.stem for path in self.place.iterdir() if path.name.endswith(".part"))

    def content(self, file_id: UUID | str) -> bytes:
        return (self.place / str(file_id)).read_bytes()

    def put(self, file_id: UUID, content: bytes) -> None:
        (self.place / str(file_id)).write_bytes(content)


class BucketDepot(Depot):
    def __init__(self, server: S3Server, prefix: str) -> None:
        self.server = server
        self.place = Bucket(BUCKET, prefix)
        self._prefix = f"{prefix}/"
        self._client = server.client

    def names(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=BUCKET, Prefix=self._prefix)
        assert not found["IsTruncated"]
        return sorted(one["Key"].removeprefix(self._prefix) for one in found.get("Contents", ()))

    def unfinished(self) -> list[str]:
        found = self._client.list_multipart_uploads(Bucket=BUCKET, Prefix=self._prefix)
        return sorted(one["Key"].removeprefix(self._prefix) for one in found.get("Uploads", ()))

    def content(self, file_id: UUID | str) -> bytes:
        content: bytes = self._client.get_object(Bucket=BUCKET, Key=f"{self._prefix}{file_id}")["Body"].read()
        return content

    def put(self, file_id: UUID, content: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=f"{self._prefix}{file_id}", Body=content)


def in_bucket(server: S3Server, patch: pytest.MonkeyPatch) -> BucketDepot:
    """For this process, and those that it starts."""
    point_at(server, patch)
    return BucketDepot(server, f"{uuid4()}/files")


@pytest.fixture(params=["directory", "bucket"])
def depot(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Depot:
    if request.param == "directory":
        return DirectoryDepot(tmp_path / "files")
    return in_bucket(request.getfixturevalue("s3_server"), monkeypatch)
