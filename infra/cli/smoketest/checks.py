"""A list of checks, each reported as it is made."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from infra.cli.errors import CliError
from infra.cli.sse import SseError


class Wrong(Exception):
    """What a check found, as a sentence."""


class Checks:
    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self._began = time.monotonic()

    @contextmanager
    def check(self, what: str) -> Iterator[None]:
        """Passed unless something is wrong inside, or breaks. Later checks go on."""
        try:
            yield
        except (Wrong, CliError, SseError, httpx.HTTPError) as error:
            self._report(what, str(error) or type(error).__name__)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            # an answer of another form than the protocol's
            self._report(what, f"unexpected answer, {type(error).__name__}: {error}")
        else:
            self._report(what, None)

    def leave_out(self, what: str, why: str) -> None:
        print(f"  - left out: {what} ({why})", flush=True)

    def remark(self, sentence: str) -> None:
        """What is worth knowing, and nothing wrong."""
        print(f"  - remark: {sentence}", flush=True)

    def verdict(self, *, whole: bool = True) -> str:
        """`whole`: that was all that there is to look at."""
        took = f"{time.monotonic() - self._began:.1f} s"
        if self.failed:
            return f"{self.failed} of {self.passed + self.failed} checks failed, in {took}."
        return f"{'All ' if whole else ''}{self.passed} checks passed, in {took}."

    def _report(self, what: str, trouble: str | None) -> None:
        if trouble is None:
            self.passed += 1
            print(f"  ✓ passed: {what}", flush=True)
        else:
            self.failed += 1
            print(f"  ✗ FAILED: {what}: {trouble}", flush=True)


def expect(truth: object, sentence: str) -> None:
    """Raises Wrong with the sentence unless it is so."""
    if not truth:
        raise Wrong(sentence)


def same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise Wrong(f"{what} is {_short(found)}, expected {_short(expected)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + " …"  # noqa: PLR2004 - about two lines
