"""`run_container`: what a container says, how it is held, and that none outlives its job. On a real engine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import docker
import pytest
from docker.errors import NotFound
from docker.models.containers import Container
from requests import ReadTimeout

from shared.containers import ATTEMPT, JOB, run_container
from shared.kit import children
from shared.updates import Fatal, Job, JobError, Log, Update
from tests.support.batches import wait_for
from tests.support.engines import docker_engine
from tests.support.handlers import driven
from tests.support.needs import needs

IMAGE = "python:3.11-slim-bookworm"
STUBBORN = ["sh", "-c", "trap '' TERM; echo up; while true; do sleep 1; done"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    with docker_engine(IMAGE) as engine:
        yield engine


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(uuid4(), uuid4(), "anna", "job", 2, tmp_path, scratch=tmp_path / "scratch")


def left(engine: docker.DockerClient, job: Job) -> list[str]:
    found = engine.containers.list(all=True, filters={"label": f"{JOB}={job.id}"}, ignore_removed=True)
    return [container.id for container in found if container.id]


def guarded() -> set[int | str]:
    """What the guard would end if this process ended now."""
    return {*children._guard._left}


def texts(said: list[Update]) -> list[str]:
    return [update.text for update in said if isinstance(update, Log)]


def test_its_output_is_the_jobs_and_nothing_of_it_is_left(engine: docker.DockerClient, job: Job) -> None:
    script = "echo one; echo two >&2; pwd; echo $COLOUR; echo made > it; id -u; exit 3"
    said, status = driven(
        run_container(job, IMAGE, ["sh", "-c", script], directory="/job", environment={"COLOUR": "blue"}, check=False)
    )
    assert status == 3
    assert sorted(texts(said)) == sorted(["one", "two", "/job", "blue", "0"])
    assert (job.directory / "it").read_text() == "made\n"
    assert left(engine, job) == []


def test_the_jobs_directory_is_there_for_the_worker_whoever_that_is(engine: docker.DockerClient, job: Job) -> None:
    """Without capabilities even root writes nowhere but into what is its own."""
    needs("root, to give a directory away", there=os.getuid() == 0)
    os.chown(job.directory, 1234, 1234)
    script = ["sh", "-c", "echo made > it; id -u"]
    said, _ = driven(run_container(job, IMAGE, script, directory="/job"))
    assert texts(said) == ["1234"]
    assert (job.directory / "it").stat().st_uid == 1234
    said, _ = driven(run_container(job, IMAGE, ["id", "-u"], user="77"))
    assert texts(said) == ["77"]


def test_a_status_other_than_0_fails_unless_it_is_asked_for(engine: docker.DockerClient, job: Job) -> None:
    with pytest.raises(JobError, match=r"ended with status 4: no such page$") as caught:
        driven(run_container(job, IMAGE, ["sh", "-c", "echo no such page; exit 4"]))
    assert caught.value.code == "command_failed"
    assert left(engine, job) == []


def test_it_is_held_to_its_limits(engine: docker.DockerClient, job: Job) -> None:
    running = run_container(job, IMAGE, STUBBORN, memory=64 * 2**20, cpus=0.5, processes=20)
    while next(running) is None:
        pass
    (container,) = engine.containers.list(filters={"label": f"{JOB}={job.id}"})
    held = container.attrs["HostConfig"]
    assert (held["Memory"], held["MemorySwap"], held["NanoCpus"], held["PidsLimit"]) == (2**26, 2**26, 5 * 10**8, 20)
    assert (held["NetworkMode"], held["CapDrop"], held["Privileged"]) == ("none", ["ALL"], False)
    assert container.labels[ATTEMPT] == "2"
    assert held["LogConfig"]["Type"] == "none"
    running.close()


def test_of_much_output_that_comes_at_once_nothing_is_lost(engine: docker.DockerClient, job: Job) -> None:
    script = "for n in range(600): print(n, 'x' * 60_000, flush=True)"
    said, _ = driven(run_container(job, IMAGE, ["python3", "-c", script], each=lambda line: Log(line.split()[0])))
    assert texts(said) == [str(n) for n in range(600)]
    assert left(engine, job) == []


def test_it_ends_with_its_job_also_if_it_does_not_want_to(engine: docker.DockerClient, job: Job) -> None:
    running = run_container(job, IMAGE, STUBBORN)
    assert wait_for(lambda: next(running), "a line") == Log("up")
    began = time.monotonic()
    running.close()  # as the runner does at a cancel, a time limit and a shutdown
    assert left(engine, job) == []
    assert time.monotonic() - began < 15, "SIGTERM, three seconds, SIGKILL; and room for a busy machine"


def test_a_silent_one_lets_its_handler_be_ended(engine: docker.DockerClient, job: Job) -> None:
    running = run_container(job, IMAGE, ["sleep", "600"])
    assert [next(running) for _ in range(3)] == [None, None, None]
    running.close()
    assert left(engine, job) == []


def test_it_ends_with_a_worker_that_is_killed(engine: docker.DockerClient, job: Job, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from uuid import UUID
from shared.containers import run_container
from shared.updates import Job
job = Job(UUID("{job.id}"), UUID("{job.batch_id}"), "anna", "job", 1, Path("/"))
for said in run_container(job, "{IMAGE}", {STUBBORN!r}):
    if said is not None:
        print(said.text, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "up\n"
        assert len(left(engine, job)) == 1
        worker.send_signal(signal.SIGKILL)
    wait_for(lambda: not left(engine, job), "the container to be gone")


def test_what_an_earlier_attempt_left_is_removed(engine: docker.DockerClient, job: Job) -> None:
    labels = {JOB: str(job.id), ATTEMPT: "1"}
    earlier = engine.containers.run(IMAGE, ["sleep", "600"], detach=True, labels=labels, network_mode="none")
    assert driven(run_container(job, IMAGE, ["true"]))[1] == 0
    with pytest.raises(NotFound):
        earlier.reload()


def test_one_that_somebody_else_removes_has_failed(engine: docker.DockerClient, job: Job) -> None:
    running = run_container(job, IMAGE, STUBBORN)
    wait_for(lambda: next(running), "a line")
    engine.containers.get(left(engine, job)[0]).remove(force=True)
    with pytest.raises(JobError):
        driven(running)
    assert not guarded(), "there is nothing to end any more"


def test_one_that_cannot_be_asked_to_end_is_removed_all_the_same(
    engine: docker.DockerClient, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise ReadTimeout("the engine took too long")

    monkeypatch.setattr(Container, "stop", busy)
    running = run_container(job, IMAGE, STUBBORN)
    wait_for(lambda: next(running), "a line")
    assert guarded()
    running.close()
    assert left(engine, job) == []
    assert not guarded()


def test_an_image_that_is_not_there_is_not_tried_again(engine: docker.DockerClient, job: Job) -> None:
    with pytest.raises(Fatal, match="there is no image headway/no-such-image") as caught:
        driven(run_container(job, "headway/no-such-image"))
    assert caught.value.code == "no_such_image"
    with pytest.raises(Fatal) as refused:
        driven(run_container(job, IMAGE, ["true"], memory=1))
    assert refused.value.code == "container_refused"
    with pytest.raises(JobError, match="ended with status 127"):
        driven(run_container(job, IMAGE, ["no-such-command"]))
    assert left(engine, job) == []


def test_an_engine_that_is_away_is_worth_another_attempt(tmp_path: Path) -> None:
    script = """
from pathlib import Path
from uuid import uuid4
from shared.containers import run_container
from shared.updates import Job, Retryable
try:
    list(run_container(Job(uuid4(), uuid4(), "anna", "job", 1, Path("/")), "image"))
except Retryable as error:
    print(error.code)
"""
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    assert said.stdout == "no_engine\n"
