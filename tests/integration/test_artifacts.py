"""Artifacts: files that handlers give, stored in either place, and downloaded by their owners."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from msgspec import structs
from uuid_utils.compat import uuid7

from services.api.app import create_app
from services.worker.housekeeping import Housekeeping
from services.worker.job_files import JobFiles
from services.worker.run import Run
from shared import models
from shared.auth import issue_report_token
from shared.channels import Publisher
from shared.deletion import delete_batch
from shared.files import make_files
from shared.redis_clients import make_redis
from shared.settings import Settings
from shared.updates import Artifact, Checkpoint, Fatal, Job, Retryable, Updates
from tests.support.batches import OWNER, job_rows, wait_finished, wait_for
from tests.support.depots import Depot, depot
from tests.support.s3_server import s3_server
from tests.support.small_disk import longest_file
from tests.support.web import assert_problem, client, decoded, served
from tests.support.working import kind_of, submit, working

__all__ = ["depot", "s3_server"]

LIMIT = 7 * 2**20


@pytest.fixture
def there(settings: Settings, depot: Depot) -> Settings:
    return structs.replace(settings, uploads=depot.place, max_artifact=LIMIT, max_artifacts=3)


@pytest.fixture
def address(there: Settings) -> Iterator[str]:
    with served(create_app(there)) as address:
        yield address


@pytest.fixture
def anna(address: str, there: Settings) -> Iterator[httpx.Client]:
    with client(address, there) as anna:
        yield anna


LARGE = os.urandom(LIMIT)

GIVEN: dict[str, tuple[bytes, str]] = {
    'bild ü "50 %".png': (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "image/png"),
    "empty": (b"", "application/octet-stream"),
    "large.bin": (LARGE, "application/octet-stream"),
}


def gives(_params: Any, job: Job) -> Updates[int]:
    for name, (content, _) in GIVEN.items():
        if name == "empty":
            yield Artifact(content, name)
        else:
            path = job.directory / "the same each time"
            path.write_bytes(content)
            yield Artifact(path, name)
            path.write_bytes(b"changed since")
    return 1


def finish(engine: sa.Engine, settings: Settings, handler: Any, **changes: Any) -> UUID:
    """The batch of one job, once it has ended."""
    batch_id = submit(engine, settings, 1, kind_of(handler))
    with working(settings, handler, **({"time_limit": 60} | changes)):
        wait_finished(engine, batch_id)
    return batch_id


def only_job(engine: sa.Engine, batch_id: UUID) -> Any:
    (job,) = job_rows(engine, batch_id)
    return job


def listed(anna: httpx.Client, job_id: UUID) -> list[Any]:
    items: list[Any] = decoded(anna.get(f"/api/jobs/{job_id}/artifacts"))["items"]
    return items


def test_what_a_handler_gives_is_listed_and_downloaded(
    anna: httpx.Client, there: Settings, engine: sa.Engine, depot: Depot
) -> None:
    batch_id = finish(engine, there, gives)
    job = only_job(engine, batch_id)
    assert job.status == "COMPLETED", job.error_message
    items = listed(anna, job.id)
    assert [(item["name"], item["size"], item["contentType"], item["attempt"]) for item in items] == [
        (name, len(content), type_, 1) for name, (content, type_) in GIVEN.items()
    ]
    assert depot.everything() == sorted(item["id"] for item in items)
    seen = decoded(anna.get(f"/api/jobs/{job.id}"))["artifacts"]
    assert seen == [{field: item[field] for field in ("id", "name", "size", "contentType")} for item in items]
    (in_list,) = decoded(anna.get(f"/api/batches/{batch_id}/jobs"))["items"]
    assert in_list["artifacts"] == seen
    for item in items:
        reply = anna.get(f"/api/jobs/{job.id}/artifacts/{item['id']}")
        content, type_ = GIVEN[item["name"]]
        assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, content, type_)
        assert reply.headers["content-length"] == str(len(content))
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"] == "sandbox"
        assert reply.headers["cache-control"] == "no-store"
    first = anna.get(f"/api/jobs/{job.id}/artifacts/{items[0]['id']}")
    assert first.headers["content-disposition"] == (
        "attachment; filename=\"bild _ _50 __.png\"; filename*=UTF-8''bild%20%C3%BC%20%2250%20%25%22.png"
    )


def test_only_its_owner_and_tickets_of_its_batch_get_it(
    anna: httpx.Client, address: str, there: Settings, engine: sa.Engine
) -> None:
    batch_id, other = finish(engine, there, gives), submit(engine, there, 1, kind_of(gives))
    job = only_job(engine, batch_id)
    place = f"/api/jobs/{job.id}/artifacts"
    one = f"{place}/{listed(anna, job.id)[1]['id']}"
    tickets = [decoded(anna.post(f"/api/batches/{id_}/tickets"))["ticket"] for id_ in (batch_id, other)]
    with client(address, there, "bert") as bert, httpx.Client(base_url=address) as nobody:
        for path in (place, one):
            assert_problem(bert.get(path), 404, "not_found")
            assert_problem(nobody.get(path), 401, "unauthenticated")
            assert nobody.get(path, params={"ticket": tickets[0]}).status_code == 200
            assert_problem(nobody.get(path, params={"ticket": tickets[1]}), 404, "not_found")
            assert_problem(nobody.get(path, params={"ticket": tickets[0] + "x"}), 401, "unauthenticated")
            report, _ = issue_report_token(there, OWNER, batch_id)
            headers = {"Authorization": f"Bearer {report}"}
            assert_problem(nobody.get(path, headers=headers), 401, "unauthenticated")
        assert_problem(nobody.get(f"/api/jobs/{job.id}", params={"ticket": tickets[0]}), 401, "unauthenticated")
    elsewhere = only_job(engine, other)
    assert listed(anna, elsewhere.id) == []
    assert_problem(anna.get(one.replace(str(job.id), str(elsewhere.id))), 404, "not_found")
    assert_problem(anna.get(f"{place}/{elsewhere.id}"), 404, "not_found")


def test_a_list_has_pages(anna: httpx.Client, there: Settings, engine: sa.Engine) -> None:
    job = only_job(engine, finish(engine, there, gives))
    page = decoded(anna.get(f"/api/jobs/{job.id}/artifacts?limit=2"))
    rest = decoded(anna.get(f"/api/jobs/{job.id}/artifacts", params={"cursor": page["nextCursor"]}))
    assert [item["name"] for item in page["items"] + rest["items"]] == list(GIVEN)
    assert rest["nextCursor"] is None


def replaces(_params: Any, job: Job) -> Updates[None]:
    yield Artifact(b"of attempt %d" % job.attempt, "same")
    yield Artifact(b"again", "same")
    yield Artifact(b"x", f"of {job.attempt}")
    yield Checkpoint(1)
    if job.attempt == 1:
        raise Retryable("once more")


def test_a_new_one_takes_the_place_of_an_earlier_one_of_its_name(
    anna: httpx.Client, there: Settings, engine: sa.Engine, depot: Depot
) -> None:
    job = only_job(engine, finish(engine, there, replaces, max_attempts=2))
    items = listed(anna, job.id)
    assert [(item["name"], item["attempt"]) for item in items] == [("of 1", 1), ("same", 2), ("of 2", 2)]
    tidy(engine, there)
    assert depot.names() == sorted(item["id"] for item in items)


def tidy(engine: sa.Engine, settings: Settings) -> None:
    with make_redis(settings.redis_url) as redis:
        housekeeping = Housekeeping(engine, Publisher(redis, settings.namespace), settings, make_files(settings))
        wait_for(lambda: not housekeeping.round(), "all that is due to be done")


def rows(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(models.artifacts)).scalar_one()


@pytest.mark.parametrize("by", ["this version", "the version before"])
def test_they_go_with_their_batch(there: Settings, engine: sa.Engine, depot: Depot, by: str) -> None:
    batch_id = finish(engine, there, gives)
    with engine.begin() as connection:
        if by == "this version":
            delete_batch(connection, batch_id, upload_ttl=60)
        else:  # knows nothing of artifacts
            connection.execute(sa.delete(models.batches).where(models.batches.c.id == batch_id))
            connection.execute(sa.update(models.artifacts).values(expires_at=sa.func.now()))
    assert len(depot.names()) == len(GIVEN)
    tidy(engine, there)
    assert (depot.everything(), rows(engine)) == ([], 0)


def too_large(_params: Any, job: Job) -> Updates[None]:
    (job.directory / "a").write_bytes(b"x" * (LIMIT + 1))
    yield Artifact(job.directory / "a", "a")


def too_many(_params: Any, _job: Job) -> Updates[None]:
    for number in range(4):
        yield Artifact(b"x", str(number))


def not_there(_params: Any, job: Job) -> Updates[None]:
    yield Artifact(job.directory / "a", "a")


def a_directory(_params: Any, job: Job) -> Updates[None]:
    yield Artifact(job.directory, "a")


def outside(_params: Any, _job: Job) -> Updates[None]:
    yield Artifact(Path("/etc/passwd"), "a")


def a_link(_params: Any, job: Job) -> Updates[None]:
    (job.directory / "a").symlink_to("/etc/passwd")
    yield Artifact(job.directory / "a", "a")


def a_pipe(_params: Any, job: Job) -> Updates[None]:
    os.mkfifo(job.directory / "a")
    yield Artifact(job.directory / "a", "a")


def a_path_for_a_name(_params: Any, _job: Job) -> Updates[None]:
    yield Artifact(b"x", "../a")


def no_name(_params: Any, _job: Job) -> Updates[None]:
    yield Artifact(b"x", "")


def no_type(_params: Any, _job: Job) -> Updates[None]:
    yield Artifact(b"x", "a", "text/html\r\nSet-Cookie: a=b")


REFUSED = {
    too_large: "artifact_too_large",
    too_many: "too_many_artifacts",
    not_there: "unusable_artifact",
    a_directory: "unusable_artifact",
    outside: "unusable_artifact",
    a_link: "unusable_artifact",
    a_pipe: "unusable_artifact",
    a_path_for_a_name: "unusable_artifact",
    no_name: "unusable_artifact",
    no_type: "unusable_artifact",
}


def opened(directory: Path) -> list[Path]:
    """What of it this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(link.readlink())
    return [place for place in found if place.is_relative_to(directory)]


def test_what_is_no_file_is_not_left_open(settings: Settings, engine: sa.Engine, tmp_path: Path) -> None:
    files = JobFiles(engine, make_files(settings), settings)
    for what in ("directory", "pipe"):
        job = Job(uuid7(), uuid7(), "anna", what, 1, tmp_path, scratch=tmp_path / what)
        path = job.directory / "a"
        (path.mkdir if what == "directory" else partial(os.mkfifo, path))()
        with pytest.raises(Fatal, match="is no file"):
            files.store(Run(job, "any", {}, uuid7(), 0, 0), Artifact(path, "a"))
    assert opened(tmp_path) == []


def test_what_cannot_be_given_fails_the_job_at_once(there: Settings, engine: sa.Engine, depot: Depot) -> None:
    batches = {handler: submit(engine, there, 1, kind_of(handler)) for handler in REFUSED}
    with working(there, *REFUSED, max_attempts=3, time_limit=60):
        for batch_id in batches.values():
            wait_finished(engine, batch_id)
    ends = {handler: only_job(engine, batch_id) for handler, batch_id in batches.items()}
    assert {handler: (job.error_code, job.attempt) for handler, job in ends.items()} == {
        handler: (code, 1) for handler, code in REFUSED.items()
    }
    assert depot.unfinished() == []
    assert len(depot.names()) == 3, "those before the one too many"


def without_space(_params: Any, _job: Job) -> Updates[None]:
    yield Artifact(LARGE, "a")


@pytest.mark.parametrize("depot", ["directory"], indirect=True)
def test_one_for_which_there_is_no_space_is_tried_again(there: Settings, engine: sa.Engine, depot: Depot) -> None:
    with longest_file(LIMIT // 2):
        batch_id = finish(engine, there, without_space, max_attempts=2)
    job = only_job(engine, batch_id)
    assert (job.error_code, job.attempt, depot.everything()) == ("artifact_no_space", 2, [])


class Superseded:
    """A handler whose job is taken from it while it stores something."""

    def __init__(self) -> None:
        self.reached, self.go_on = Event(), Event()

    def handler(self) -> Any:
        def superseded(_params: Any, _job: Job) -> Updates[None]:
            yield None
            self.reached.set()
            self.go_on.wait(20)
            yield Artifact(b"x", "late")

        return superseded


def test_an_artifact_of_a_superseded_run_does_not_appear(
    anna: httpx.Client, there: Settings, engine: sa.Engine, depot: Depot
) -> None:
    test = Superseded()
    handler = test.handler()
    batch_id = submit(engine, there, 1, kind_of(handler))
    with working(there, handler, time_limit=60):
        assert test.reached.wait(20)
        with engine.begin() as connection:
            connection.execute(sa.update(models.jobs).values(lease_token=UUID(int=1)))
        test.go_on.set()
        wait_for(lambda: depot.names() or rows(engine), "it to be stored")
    job = only_job(engine, batch_id)
    assert (job.status, listed(anna, job.id)) == ("PROCESSING", [])
    with engine.begin() as connection:
        connection.execute(sa.update(models.artifacts).values(expires_at=sa.func.now()))
    tidy(engine, there)
    assert (depot.everything(), rows(engine)) == ([], 0)


def test_a_download_is_cut_off_when_the_file_goes_meanwhile(
    anna: httpx.Client, there: Settings, engine: sa.Engine, depot: Depot
) -> None:
    batch_id = finish(engine, there, gives)
    job = only_job(engine, batch_id)
    large = next(item for item in listed(anna, job.id) if item["name"] == "large.bin")
    path = f"/api/jobs/{job.id}/artifacts/{large['id']}"
    with anna.stream("GET", path) as reply:
        assert reply.status_code == 200
        make_files(there).remove(UUID(large["id"]))
        with pytest.raises(httpx.RemoteProtocolError):
            list(reply.iter_bytes())
    assert_problem(anna.get(path), 404, "not_found")


def test_many_slow_downloads_hold_little(anna: httpx.Client, there: Settings, engine: sa.Engine) -> None:
    job = only_job(engine, finish(engine, there, gives))
    large = next(item for item in listed(anna, job.id) if item["name"] == "large.bin")
    path = f"/api/jobs/{job.id}/artifacts/{large['id']}"

    def read(_number: int) -> bool:
        return anna.get(path).content == LARGE

    with begun(anna, path), ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(8)))


@contextmanager
def begun(anna: httpx.Client, path: str) -> Iterator[None]:
    """A download of which nobody reads any more."""
    with anna.stream("GET", path) as reply:
        next(reply.iter_raw(1024))
        yield
