"""Runs one job: drives its handler's generator and turns whatever it does into an end that can be stored."""

import random
import threading
from collections.abc import Callable, Generator, Mapping
from typing import Any

import msgspec
import structlog
from msgspec import structs

from services.worker.attempts import outcome_of
from services.worker.job_files import JobFiles
from services.worker.ledger import Ledger
from services.worker.masks import Masks
from services.worker.retries import after_failure
from services.worker.run import Interrupted, Run
from services.worker.running import Abandoned
from services.worker.scratch import Scratch
from services.worker.values import RESULT, encoded
from shared import tracing
from shared.events import Failure
from shared.job_updates import JobUpdate
from shared.jobs import JobStatus
from shared.kinds.kind import Kind
from shared.kinds.mask import Mask
from shared.kinds.secret import secret_values
from shared.texts import ERROR_MAX
from shared.trace import known_trace
from shared.tracing import Span
from shared.updates import Artifact, Fatal, FilesAway, Handler, JobError, Level, Retryable

_POSTPONED = (1.0, 60.0)
"""Seconds until the next attempt while the store of files is away: half of the first, about, and longest."""

log = structlog.get_logger(__name__)

End = tuple[JobUpdate | None, tuple[Level, str] | None]
"""The end of an attempt, and a last log line that explains it."""


class Runner:
    """`jitter` gives numbers in [0, 1) for the backoff between attempts."""

    def __init__(
        self,
        ledger: Ledger,
        kinds: Mapping[str, Kind],
        handlers: Mapping[str, Handler],
        *,
        max_result: int,
        masks: Masks | None = None,
        scratch: Scratch | None = None,
        files: JobFiles | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._ledger = ledger
        self._kinds = kinds
        self._handlers = handlers
        self._max_result = max_result
        self._masks = masks or Masks()
        self._scratch = scratch
        self._files = files
        self._jitter = jitter

    def run(self, run: Run) -> None:
        """Runs the job to its end in this thread. Never raises: a handler harms its job, not the worker."""
        run.thread = threading.get_ident()
        if kind := self._kinds.get(run.kind):
            run.mask = Mask(secret_values(run.params, kind.params))
        if self._scratch is not None:
            run.job = structs.replace(run.job, scratch=self._scratch.place(run.job.id, run.job.attempt))
            if self._files is not None and self._files.elsewhere:
                run.job = self._files.given(run.job, self._scratch.uploads(run.job.id, run.job.attempt))
        with self._span(run) as span:
            if span.trace is not None and span.trace.parent != run.job.traceparent:
                run.job = structs.replace(run.job, traceparent=span.trace.parent, tracestate=span.trace.state)
            with self._masks.also(run.mask):
                end, line = self._end(run)
            _tell_end(span, end)
        if self._scratch is not None and run.job.scratch is not None:
            self._scratch.remove(run.job.scratch)
            if self._files is not None and self._files.elsewhere:
                self._scratch.remove(self._scratch.uploads(run.job.id, run.job.attempt))
        self._ledger.finish(run, end, line=line)

    def _span(self, run: Run) -> Span:
        """The attempt's, as a child of the batch's creation: what is done in it, by its handler too, belongs to it."""
        job, kind = run.job, self._kinds.get(run.kind)
        parent, recorder = known_trace(job.traceparent, job.tracestate), tracing.recorder()
        if recorder is None:
            return tracing.Unrecorded(parent)
        attributes: dict[str, str | int] = {
            "headway.kind": run.kind,
            "headway.queue": "" if kind is None else kind.queue,
            "headway.batch_id": str(job.batch_id),
            "headway.job_id": str(job.id),
            "headway.attempt": job.attempt,
        }
        return recorder.span(f"job {run.kind}", "consumer", parent, attributes)

    def _end(self, run: Run) -> End:
        try:
            return self._attempt(run)
        except Abandoned:
            log.warning("an abandoned handler has ended", job=str(run.job.id))
            return None, None
        except Exception as error:  # what the handler raised cannot even be described: its `__str__` raises, say
            log.exception("a handler's failure cannot be described", job=str(run.job.id), kind=run.kind)
            failure = Failure("exception", f"a failure that cannot be described: {type(error).__name__}")
            return run.ended(JobStatus.FAILED, failure.code, error=failure, counts=True), None

    def _attempt(self, run: Run) -> End:
        kind, handler = self._kinds.get(run.kind), self._handlers.get(run.kind)
        if kind is None or handler is None:
            # another version of the worker may know it: give it back, counted, so that it does not go round for ever
            failure = Failure("no_handler", f"this worker knows no kind {run.kind}")
            log.error("a job has no handler here", job=str(run.job.id), kind=run.kind)
            return self._failed(run, Kind(name=run.kind, title="", params=msgspec.Struct), failure)
        try:
            params = msgspec.convert(run.params, kind.params)
        except msgspec.ValidationError as error:
            return self._failed(run, kind, Failure("invalid_params", str(error)), fatal=True)
        try:
            result = self._drive(run, run.inside(handler, params, run.job))
        except Interrupted as interrupted:
            return self._interrupted(run, kind, interrupted)
        except Abandoned:
            raise
        except FilesAway as error:
            return self._postponed(run, error)
        except Retryable as error:
            return self._failed(run, kind, Failure(error.code, error.message), after=error.after)
        except JobError as error:
            return self._failed(run, kind, Failure(error.code, error.message), fatal=isinstance(error, Fatal))
        except BaseException as error:  # also SystemExit, RecursionError, MemoryError: the job's, not ours
            log.warning("a handler raised", job=str(run.job.id), kind=run.kind, exc_info=error)
            return self._failed(run, kind, Failure("exception", f"{type(error).__name__}: {error}"))
        return self._completed(run, kind, result)

    def _drive(self, run: Run, generator: object) -> Any:
        """The handler's result. Whatever ends it, the generator is closed, so that its `finally` runs."""
        if not isinstance(generator, Generator):
            raise Fatal(
                f"the handler of {run.kind} is not a generator: it must yield at least once", code="no_generator"
            )
        try:
            while True:
                try:
                    update = run.inside(next, generator)
                except StopIteration as stop:
                    return stop.value
                if isinstance(update, Artifact) and self._files is not None:
                    update = self._files.store(run, update)
                self._ledger.record(run, update)
        finally:
            try:
                run.inside(generator.close)
            except Exception as error:  # what a handler's own cleaning up raises; RuntimeError: it yielded again
                log.warning("a handler failed to clean up", job=str(run.job.id), kind=run.kind, exc_info=error)

    def _completed(self, run: Run, kind: Kind, result: Any) -> End:
        try:
            data = encoded(RESULT, result, self._max_result, run.mask.json)
        except Fatal as error:
            return self._failed(run, kind, Failure(error.code, error.message), fatal=True)
        return run.ended(JobStatus.COMPLETED, "completed", result=data), None

    def _interrupted(self, run: Run, kind: Kind, interrupted: Interrupted) -> End:
        match interrupted.reason:
            case "cancelled":
                return run.ended(JobStatus.CANCELLED, "cancelled"), ("warn", "cancelled")
            case "given_back":
                return run.ended(JobStatus.QUEUED, "given_back"), ("info", "given back: the worker leaves")
            case "time_limit":
                message = f"took longer than its time limit of {kind.time_limit:g} s"
                return self._failed(run, kind, Failure("time_limit", message))
            case _:  # lost: another worker has it, or nobody
                return None, None

    def _postponed(self, run: Run, error: FilesAway) -> End:
        """Not the job's fault: it comes back as often as it takes, at last once a minute."""
        longest = min(_POSTPONED[1], _POSTPONED[0] * 2 ** min(run.job.attempt, 10))
        delay = longest * (1 + self._jitter()) / 2
        failure = Failure(error.code, error.message)
        line = f"attempt {run.job.attempt} is put off: {error.message}; the next one in {delay:.1f} s"
        return run.ended(JobStatus.QUEUED, failure.code, error=failure, delay=delay), ("warn", line)

    def _failed(
        self, run: Run, kind: Kind, failure: Failure, *, fatal: bool = False, after: float | None = None
    ) -> End:
        failure = Failure(run.clean(failure.code, 100), run.clean(failure.message, ERROR_MAX))
        status, delay = after_failure(kind, run.failures, self._jitter, fatal=fatal, after=after)
        text = f"attempt {run.job.attempt} failed: {failure.message}"
        if delay is not None:
            text += f"; the next one in {delay:.1f} s"
        end = run.ended(status, failure.code, error=failure, delay=delay, counts=True)
        return end, ("error", text)


def _tell_end(span: Span, end: JobUpdate | None) -> None:
    """What the attempt's error says is free of its secrets, as it is stored and shown."""
    span.note({"headway.outcome": "lost" if end is None else outcome_of(end)})
    if end is not None and end.error is not None:
        span.fail(end.error.code, end.error.message)
