"""`run_container`: a container as a part of a job. Its output is the job's, and it ends with the job.

Needs a Docker engine (`DOCKER_HOST`, as the SDK knows it) and the worker's packages.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from threading import Thread
from typing import IO, Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import LogConfig
from requests import RequestException

from shared.kit.children import began, ended, keep_guard
from shared.kit.commands import GRACE, follow
from shared.trace import trace_environment
from shared.updates import Fatal, Job, Log, Retryable, Update, Updates

JOB, ATTEMPT = "headway.job", "headway.attempt"
"""Labels of such a container: whose it is."""

_PATIENCE = 10
"""Seconds for one answer of the engine; the end and the output of a container take as long as it does."""

_LOG = LogConfig(type="none")
"""The engine keeps nothing of a container's output: it would fill its disk, and reading it back from there loses lines
that come too fast. We are attached instead, and a container waits until its output is read."""

_USUAL = "unix:///var/run/docker.sock"

_FAILURES = (DockerException, RequestException)


def run_container(
    job: Job,
    image: str,
    command: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    directory: str | None = None,
    user: str | None = None,
    memory: int = 512 * 2**20,
    cpus: float = 1.0,
    processes: int = 256,
    network: str = "none",
    check: bool = True,
    each: Callable[[str], Update | None] = Log,
    grace: float = GRACE,
) -> Updates[int]:
    """Runs a container of an image that the engine has, to its end, as `kit.run` does a command.

    `directory`: where in it the job's own directory is to be; it then runs as that directory's user, unless `user`
    says otherwise, and as the image's without one. `memory` in bytes; `processes` at most; `network` is the name of
    one, `none` for none. It has no capabilities and cannot gain any. Returns the exit status; with `check` any
    but 0 raises JobError(code="command_failed"). Raises Fatal if there is no such image, or the engine refuses what it
    is asked for, and Retryable if it cannot be reached. What an earlier attempt of the job left is removed.
    """
    options: dict[str, Any] = {
        "command": list(command) or None,
        "environment": {**trace_environment(), **(environment or {})},
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": int(cpus * 1e9),
        "pids_limit": processes,
        "network_mode": network,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "log_config": _LOG,
        "init": True,  # it hands signals on, and collects what its own processes leave
        "labels": {JOB: str(job.id), ATTEMPT: str(job.attempt)},
    }
    if directory is not None:
        options |= {"volumes": {str(job.directory): {"bind": directory, "mode": "rw"}}, "working_dir": directory}
        # without capabilities root, too, writes nowhere but into what is its own; and the worker is to remove it
        owner = job.directory.stat()
        user = user or f"{owner.st_uid}:{owner.st_gid}"
    if user is not None:
        options["user"] = user
    try:
        _remove_left(job)
        running = _Running(image, options)
    except ImageNotFound as error:
        raise Fatal(f"there is no image {image}", code="no_such_image") from error
    except APIError as error:
        if error.is_client_error():
            raise Fatal(f"{image} cannot be run: {error.explanation}", code="container_refused") from error
        raise Retryable(f"{image} cannot be run: {error.explanation}", code="container_refused") from error
    except _FAILURES as error:
        raise Retryable(f"the Docker engine cannot be reached: {error}", code="no_engine") from error
    return (yield from follow(running, image, check=check, each=each, grace=grace))


class _Running:
    """A container that runs, with the interface of `children.Child`."""

    def __init__(self, image: str, options: dict[str, Any]) -> None:
        self._container: Container = _client().containers.create(image, **options)
        # told before it runs: should this process die in the next moment, somebody knows of it
        keep_guard()
        self._guarded = f"{os.environ.get('DOCKER_HOST') or _USUAL}#{self._container.id}"
        began(self._guarded)
        self._end: int | None = None
        reading, writing = os.pipe()
        self.output: IO[bytes] = os.fdopen(reading, "rb", buffering=0)
        self._writing = os.fdopen(writing, "wb", buffering=0)
        self._reader = Thread(target=self._read, name="container", daemon=True)
        try:
            self._said = self._container.attach(stream=True, stdout=True, stderr=True)  # before it says anything
            self._container.start()
        except BaseException:
            self._detach()
            self._writing.close()
            self.end(0)
            raise
        self._reader.start()

    def _detach(self) -> None:
        with suppress(OSError, AttributeError):  # it has ended, or never begun
            self._said.close()
            self._said._response.close()  # noqa: SLF001  # the SDK leaves the connection to the garbage collector

    @property
    def status(self) -> int | None:
        return self._end

    def wait(self, seconds: float) -> int | None:
        self._reader.join(seconds)
        return self._end

    def end(self, grace: float) -> None:
        """Of an engine that is away nothing is asked for long: it has ended what it ran, or the guard will."""
        try:
            with suppress(*_FAILURES):
                if self._end is None and grace:
                    self._container.stop(timeout=int(grace))
        finally:  # whatever became of that, also when this thread is made to leave the wait
            self._remove()

    def _remove(self) -> None:
        try:
            with suppress(*_FAILURES):
                with suppress(NotFound):  # somebody else was quicker
                    self._container.remove(force=True, v=True)
                ended(self._guarded)
        finally:
            self.output.close()  # the reader's next write fails, and ends it
            if self._reader.ident is not None:
                self._reader.join(_PATIENCE)

    def _read(self) -> None:
        """In a thread: the SDK can only wait."""
        with suppress(OSError, ValueError, *_FAILURES):
            for data in self._said:
                self._writing.write(data)
        self._detach()
        try:
            self._end = int(self._container.wait()["StatusCode"])
        except (*_FAILURES, KeyError):
            self._end = _UNKNOWN
        finally:
            self._writing.close()


_UNKNOWN = 255
"""The status of a container that somebody else removed, or whose engine went away."""


@cache
def _client() -> docker.DockerClient:
    return docker.from_env(timeout=_PATIENCE)


def _remove_left(job: Job) -> None:
    """By its label: whoever ran it is gone, or is to end."""
    of_job = {"label": f"{JOB}={job.id}"}
    for left in _client().containers.list(all=True, filters=of_job, ignore_removed=True):
        with suppress(NotFound):
            left.remove(force=True, v=True)
