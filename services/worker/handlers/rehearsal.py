"""Does nothing, visibly, and fails as it is told to."""

import os
import signal
import time

from shared.kinds.rehearsal import Rehearsal, Rehearsed
from shared.updates import Artifact, Fatal, Job, Log, Progress, Retryable, Step, Updates

_LINES = b"This file says nothing, in lines of 64 bytes, as long as it is.\n" * 2**14
"""1 MiB."""


def rehearsal(params: Rehearsal, job: Job, *, unsafe: bool = False) -> Updates[Rehearsed]:
    """`unsafe` allows the failures `crash` (the process dies) and `hang` (never yields again)."""
    failing = params.fail_attempts is None or job.attempt <= params.fail_attempts
    for step in range(1, params.steps + 1):
        yield Step(f"step {step} of {params.steps}", percent=100 * (step - 1) / params.steps)
        for line in range(1, params.logs_per_step + 1):
            yield Log(f"step {step}, line {line}")
        if failing and step == params.fail_at_step:
            _fail(params, step, unsafe=unsafe)
        time.sleep(params.step_ms / 1000)
        yield Progress(percent=100 * step / params.steps)
    if params.artifact_bytes is not None:
        file = job.directory / "rehearsal.txt"
        with file.open("wb") as writing:
            for begin in range(0, params.artifact_bytes, len(_LINES)):
                writing.write(_LINES[: params.artifact_bytes - begin])
        yield Artifact(file, "rehearsal.txt", "text/plain; charset=utf-8")
    return Rehearsed(params.steps, job.attempt)


def _fail(params: Rehearsal, step: int, *, unsafe: bool) -> None:
    message = f"rehearsed failure at step {step}"
    if params.failure == "retryable":
        raise Retryable(message, code="rehearsed")
    if params.failure == "fatal" or not unsafe:
        detail = (
            "" if params.failure == "fatal" else f" ({params.failure} works only where HEADWAY_REHEARSAL=unsafe is set)"
        )
        raise Fatal(message + detail, code="rehearsed")
    if params.failure == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    while True:  # hang
        time.sleep(3600)
