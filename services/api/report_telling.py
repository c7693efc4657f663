"""What the reports of one request come to: one update of their job, and its new lines."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.api.report_fields import (
    AnyReport,
    CancelledReport,
    CompleteReport,
    FailReport,
    LogReport,
    MetadataReport,
    ProgressReport,
    StartReport,
    StepReport,
    WarningReport,
)
from shared.events import Failure, encode
from shared.job_updates import JobUpdate, NewLine
from shared.jobs import RUNNING_MAX, JobStatus
from shared.kinds.external import EXTERNAL
from shared.settings import Settings
from shared.texts import ERROR_MAX, TEXT_MAX, clean, last_line
from shared.updates import Items, Level

_LATE = timedelta(days=1)
"""How much older than its report a line may be."""


class Telling:
    """`job` as REPORTED_JOB has it, running. Reports are taken in their order."""

    def __init__(self, job: Any, run: UUID, settings: Settings, now: datetime) -> None:
        self.update = JobUpdate(id=job.id, token=run, progress=job.progress, last_line=job.last_line)
        self.lines: list[NewLine] = []
        self.changed = False
        """Whether there is anything to show; otherwise the run was heard of, and no more."""
        self._job = job
        self._settings = settings
        self._now = now
        self._step: str | None = job.step
        self._message: str | None = job.message
        self._items: Items | None = None
        if job.items_total is not None:
            self._items = Items(job.items_done, job.items_failed, job.items_total)

    def take(self, report: AnyReport) -> None:
        match report:
            case StartReport():
                pass  # it has begun
            case ProgressReport():
                self._take_progress(report)
            case StepReport(name=name, percent=percent, at=at):
                self._step = self.update.step = clean(name, TEXT_MAX)
                self._reach(percent)
                self._add_line("phase", name, at)
            case LogReport(text=text, level=level, at=at):
                self._add_line(level, text, at)
            case WarningReport(text=text, at=at):
                self._add_line("warn", text, at)
            case MetadataReport(metadata=metadata):
                self.update.metadata, self.changed = encode(metadata), True
            case CompleteReport(result=result):
                self._end(JobStatus.COMPLETED, "completed")
                self.update.result = encode(result)
            case FailReport():
                self._fail(report)
            case CancelledReport():
                self._add_line("warn", "cancelled")
                self._end(JobStatus.CANCELLED, "cancelled")

    def end_late(self) -> None:
        """An attempt that goes on past the kind's time limit fails, as a worker's does at its next yield."""
        limit = timedelta(seconds=EXTERNAL.time_limit)
        if self.update.status is JobStatus.PROCESSING and self._now - self._job.started_at > limit:
            message = f"took longer than its time limit of {EXTERNAL.time_limit:g} s"
            self._fail(FailReport(sequence=1, message=message, code="time_limit", retry=True))

    def _take_progress(self, report: ProgressReport) -> None:
        if report.message is not None and (message := clean(report.message, TEXT_MAX)) != self._message:
            self._message = self.update.message = message
            self.changed = True
        percent = report.percent
        if any(number is not None for number in (report.done, report.failed, report.total)):
            before = self._items or Items(0)
            items = Items(
                before.done if report.done is None else report.done,
                before.failed if report.failed is None else report.failed,
                before.total if report.total is None else report.total,
            )
            if items != self._items:
                self._items = self.update.items = items
                self.changed = True
            if percent is None and items.total:
                percent = 100 * (items.done + items.failed) / items.total
        self._reach(percent)

    def _reach(self, percent: float | None) -> None:
        if percent is not None and (reached := int(min(percent, RUNNING_MAX))) > self.update.progress:
            self.update.progress = reached
            self.changed = True

    def _fail(self, report: FailReport) -> None:
        failure = Failure(report.code, clean(report.message, ERROR_MAX))
        left = report.retry and self._job.failures + 1 < EXTERNAL.max_attempts
        self._add_line("error", f"attempt {self._job.attempt} failed: {failure.message}")
        self._end(JobStatus.QUEUED if left else JobStatus.FAILED, failure.code)
        self.update.error, self.update.counts = failure, True

    def _end(self, status: JobStatus, reason: str) -> None:
        self.update.status, self.update.reason = status, reason
        self.changed = True

    def _add_line(self, level: Level, text: str, at: datetime | None = None) -> None:
        self.changed = True
        if self.update.last_line >= self._settings.max_lines:
            return
        self.update.last_line += 1
        if self.update.last_line == self._settings.max_lines:
            level, text = "warn", last_line(self._settings.max_lines)
        text = clean(text, self._settings.max_line)
        line = NewLine(self._job.id, self._job.attempt, self.update.last_line, self._moment(at), level, text)
        self.lines.append(line)

    def _moment(self, at: datetime | None) -> datetime:
        """Other people's clocks are believed as far as it can be so: what has not been yet, or was long ago, is now."""
        if at is None:
            return self._now
        try:
            at = at.astimezone(UTC)
        except OverflowError:
            return self._now
        return at if self._now - _LATE <= at <= self._now else self._now
