"""Files in a bucket of an S3 store, by boto3. Where it is, and by whose leave, boto3's own AWS_… variables say."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from uuid import UUID

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from shared.errors import DiskFull, Unavailable
from shared.files.store import STALE
from shared.outage import Outage
from shared.settings import Bucket

_SMALLEST_PART = 5 * 2**20
_MOST_PARTS = 10_000
"""Of one file, as S3 has it; the last part may be smaller."""

_OPTIONS = Config(
    connect_timeout=2,
    read_timeout=10,
    # once more where that may help, and no longer: somebody waits for the answer
    retries={"total_max_attempts": 2, "mode": "standard"},
    max_pool_connections=32,
    # by itself it would send sums of a newer kind, which stores other than Amazon's may refuse
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)

_NO_SPACE = frozenset({"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "StorageFull"})
_NO_KEY = frozenset({"NoSuchKey", "404"})
_NO_UPLOAD = "NoSuchUpload"
_OF_ONE = _NO_KEY | {_NO_UPLOAD}
"""What is said of one object or upload. Whatever else a store answers is about us, the bucket or itself."""
_NO_MORE = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
"""Asked for what is behind its end, or for anything of an empty one."""


class BucketFiles:
    """See Files. Each file is an object `<prefix>/<id>`; unfinished ones are multipart uploads, which nobody finds."""

    directory: Path | None = None

    def __init__(self, bucket: Bucket, *, longest: int) -> None:
        """`longest` in bytes: so long is any file at most."""
        self.bucket = bucket.name
        self.part = max(_SMALLEST_PART, -(-longest // _MOST_PARTS))
        self._prefix = f"{bucket.prefix}/" if bucket.prefix else ""
        self._outage = Outage("s3", "files")
        self._lock = Lock()

    def prepare(self) -> None:
        Thread(target=self._look, name="files", daemon=True).start()

    def _look(self) -> None:
        """So that a bucket which is not there is heard of before somebody needs it."""
        with suppress(Unavailable):  # it is said
            self.tidy()

    def receive(self, file_id: UUID) -> "IncomingObject":
        return IncomingObject(self, self.key(file_id))

    def read(self, file_id: UUID, start: int, size: int) -> bytes:
        span = f"bytes={start}-{start + size - 1}"
        try:
            with self.asking():
                found = self.client.get_object(Bucket=self.bucket, Key=self.key(file_id), Range=span)
                data: bytes = found["Body"].read()
        except ClientError as error:
            if _status(error) == _NO_MORE:
                return b""
            if _code(error) in _NO_KEY:
                raise FileNotFoundError(f"there is no file {file_id}") from None
            raise
        return data

    def remove(self, file_id: UUID) -> None:
        with self.asking():
            self.client.delete_object(Bucket=self.bucket, Key=self.key(file_id))

    def tidy(self) -> None:
        old = datetime.now(UTC) - timedelta(seconds=STALE)
        with self.asking():
            pages = self.client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < old and self._ours(upload["Key"]):
                        self.abort(upload["Key"], upload["UploadId"])

    def abort(self, key: str, upload: str) -> None:
        try:
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
        except ClientError as error:
            if _code(error) != _NO_UPLOAD:  # another process tidies up as well
                raise

    @property
    def away(self) -> bool:
        """By the last that was heard of the store."""
        return self._outage.away

    def key(self, file_id: UUID) -> str:
        return f"{self._prefix}{file_id}"

    def _ours(self, key: str) -> bool:
        name = key.removeprefix(self._prefix)
        try:
            return str(UUID(name)) == name
        except ValueError:
            return False

    @property
    def client(self) -> Any:
        with self._lock:
            return self._client

    @cached_property
    def _client(self) -> Any:
        try:
            # boto3 itself knows AWS_DEFAULT_REGION only, everybody else's libraries, and clusters, AWS_REGION
            return boto3.session.Session().client("s3", region_name=os.environ.get("AWS_REGION"), config=_OPTIONS)
        except ValueError as error:  # of AWS_ENDPOINT_URL_S3
            raise self._away(error, "InvalidEndpoint") from None

    @contextmanager
    def asking(self) -> Iterator[None]:
        """What the store says, in our words; ClientError where it is about the one object. Raises Unavailable and
        DiskFull.
        """
        try:
            yield
        except ParamValidationError:  # a mistake of ours
            raise
        except BotoCoreError as error:
            raise self._away(error, type(error).__name__) from None
        except ClientError as error:
            code, status = _code(error), _status(error)
            if code in _NO_SPACE or status == HTTPStatus.INSUFFICIENT_STORAGE:
                raise DiskFull("the store of files is full") from None
            if code in _OF_ONE or status == _NO_MORE:
                self._outage.end()
                raise
            raise self._away(error, code) from None
        else:
            self._outage.end()

    def _away(self, error: Exception, why: str) -> Unavailable:
        self._outage.begin(error, why)
        return Unavailable("the store of files cannot be reached, or refuses us")


class IncomingObject:
    """Holds one part in memory. One that is no longer than that is sent in one piece at the end."""

    def __init__(self, files: BucketFiles, key: str) -> None:
        self.size = 0
        self._files = files
        self._here = {"Bucket": files.bucket, "Key": key}
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._waiting = bytearray()
        self._kept = False
        """It may be there, whatever the store answered."""

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self._waiting += data
        while len(self._waiting) > self._files.part:  # the last one is sent by `keep`
            self._send(self._files.part)

    def keep(self) -> None:
        self._kept = True
        if self._upload is None:
            with self._files.asking():
                self._files.client.put_object(**self._here, Body=bytes(self._waiting))
            return
        self._send(len(self._waiting))
        try:
            with self._files.asking():
                self._files.client.complete_multipart_upload(
                    **self._here, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
                )
        except ClientError as error:
            # asked twice because the first answer was lost, some stores know nothing of it any more
            if _code(error) != _NO_UPLOAD or not self._there():
                raise

    def discard(self) -> bool:
        self._waiting.clear()
        if self._files.away:  # nobody is to wait a second time for nothing; what is left `tidy` finds, or its row tells
            return not self._kept
        with suppress(Unavailable, DiskFull):
            if self._upload is not None:
                with self._files.asking():
                    self._files.abort(self._here["Key"], self._upload)
                self._upload = None
            if self._kept:
                with self._files.asking():
                    self._files.client.delete_object(**self._here)
                self._kept = False
        return not self._kept

    def _there(self) -> bool:
        with self._files.asking():
            return bool(self._files.client.head_object(**self._here)["ContentLength"] == self.size)

    def _send(self, size: int) -> None:
        with self._files.asking():
            if self._upload is None:
                self._upload = self._files.client.create_multipart_upload(**self._here)["UploadId"]
            number = len(self._parts) + 1
            part = self._files.client.upload_part(
                **self._here, UploadId=self._upload, PartNumber=number, Body=bytes(memoryview(self._waiting)[:size])
            )
        self._parts.append({"PartNumber": number, "ETag": part["ETag"]})
        del self._waiting[:size]


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
