"""A kind with secrets whose handler does with them all that it should not, for tests of what is written then.

`tests/support/leaky_home` on PYTHONPATH adds it to the tables of every process: production has no such kind.
"""

import base64
import json
import logging
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal
from urllib.parse import quote

import structlog
from msgspec import Meta, Struct

from shared.kinds.kind import Kind
from shared.kinds.secret import SECRET, Secret
from shared.updates import Fatal, Job, Log, Progress, Retryable, Step, Updates

FORGED = "2026-01-01T00:00:00Z [info] forged by a client"
"""What must never stand at the beginning of a line."""

log = structlog.get_logger("services.leaky")


class Leaky(Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    mode: Literal["say", "raise", "retryable", "fatal", "crash", "hang", "refused", "unclean"]
    password: Annotated[Secret, Meta(min_length=8, max_length=200)]
    headers: Annotated[dict[str, str], SECRET] = {}
    keys: list[Secret] = []
    by_host: dict[str, Secret] | None = None

    def __post_init__(self) -> None:
        if self.password.startswith("weak"):
            raise ValueError(f"{self.password} is weak")
        if self.password.startswith("mistake"):
            raise KeyError(self.password)


class Leaked(Struct):
    text: str


class LeakySummary(Struct):
    texts: list[str]


LEAKY = Kind(
    name="leaky",
    title="Leaky",
    params=Leaky,
    max_attempts=2,
    time_limit=2,
    backoff=(0.01, 0.02),
    result=Leaked,
    summarise=lambda results: LeakySummary([result.text for result in results]),
)


def leaky(params: Leaky, job: Job) -> Updates[Any]:  # noqa: C901  # a branch for each way to leak
    words = f"{params.password} {params}"
    yield Step(f"signing in with {words}")
    yield Progress(10, message=f"signed in with {words}")
    match params.mode:
        case "say":
            yield from _say(params, words)
        case "raise":
            raise RuntimeError(f"sign-in failed: {words}\n{FORGED}\x1b[2J") from KeyError(words)
        case "retryable":
            raise Retryable(f"try again with {words}", code=params.password)
        case "fatal":
            raise Fatal(f"never again with {words}", code=params.password)
        case "crash":
            if job.attempt == 1:
                print("about to die of", words, flush=True)  # noqa: T201  # by accident
                os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            print("about to hang on", words)  # noqa: T201
            time.sleep(8)
        case "refused":
            return "refused"  # by a constraint that the test adds: its error shows the row
        case "unclean":
            try:
                while True:  # past its time limit
                    yield Progress(50)
                    time.sleep(0.05)
            finally:
                raise OSError(words)
    return Leaked(f"done with {words}")


def _say(params: Leaky, words: str) -> Updates[None]:
    password = params.password
    for text in (
        words,
        json.dumps({"password": password}),
        json.dumps(json.dumps({"password": password})),
        repr([password.encode()]),
        f"https://user:{quote(password, safe='')}@host/?key={quote(params.keys[0])}",
        "Basic " + base64.b64encode(f"user:{password}".encode()).decode(),
        password.encode().hex(),
        *params.keys,
        *params.headers.values(),
        *(params.by_host or {}).values(),
    ):
        yield Log(text)
    for room in range(8192 - 60, 8192, 3):  # the size limit of a line, somewhere within the password
        yield Log("x" * room + password)
    print("printed", words)  # noqa: T201
    print("printed", words, file=sys.stderr)  # noqa: T201
    log.info("told our log", words=words, params=params)
    logging.getLogger("some.library").warning("told %s to %s\n%s", params, words, FORGED)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(logging.getLogger("some.library").error, "from a thread: %s", words).result()


def install() -> None:
    """Into the tables of this process."""
    from services.worker import table  # noqa: PLC0415  # only where the services are
    from shared.kinds import KINDS  # noqa: PLC0415

    KINDS[LEAKY.name] = LEAKY
    table._MAKERS[LEAKY.name] = lambda _settings: leaky
