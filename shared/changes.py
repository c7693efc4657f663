"""The versioned change: the only way in which anything of a batch is ever changed.

One transaction, one batch: lock the batch row, change jobs (fenced, learning old and new), add log lines and
transitions, then one UPDATE of the batch by the difference that was really made. Every row touched carries the new
version; the lock makes commit order equal version order, so that "rows with a version above v" is a complete delta.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from shared import queries
from shared.artifacts import record_artifacts
from shared.channels import Frame, make_frame
from shared.creation import NewJob, copy_jobs, new_job
from shared.events import Delta, Job, Line, stamp
from shared.job_updates import JobUpdate, NewLine, line_columns, update_columns
from shared.jobs import FINAL_BATCH, BatchStatus, JobStatus, batch_status, contribution
from shared.kinds import KINDS
from shared.lanes import Lane, add_lane
from shared.pace import dump, load
from shared.paces import history_of, remember_batch
from shared.rows import batch_of, counts_of, failure_text, job_of
from shared.summaries import summary_of
from shared.trace import CURRENT
from shared.transitions import Transitions


class NoSuchBatch(LookupError):
    """It was never there, or has been deleted."""


class Unrunnable(LookupError):
    """The batch is of a kind that is not known here any more. The argument is the kind's name."""


_MOST_SHOWN = 250
"""New jobs that a frame shows: more would not fit into one anyway."""


class Change:
    """One change of one batch, in a transaction of the caller's: methods, then `close()`, then `commit()`.

    Raises NoSuchBatch.
    """

    def __init__(self, connection: Connection, batch_id: UUID) -> None:
        self._connection = connection
        row = connection.execute(queries.LOCK_BATCH, {"id": batch_id}).one_or_none()
        if row is None:
            raise NoSuchBatch(f"there is no batch {batch_id}")
        self.batch: Row[Any] = row
        self.version: int = row.version + 1
        self._counts = counts_of(row)
        self._progress_sum: int = row.progress_sum
        self._failed_items: int = row.failed_items
        self._delayed: int = row.delayed
        self._paused: bool = row.paused
        self._cancel_requested: bool = row.cancel_requested
        self._cancel_reason: str | None = row.cancel_reason
        self._open: bool = row.open
        self._held: bool = row.held
        self._started: bool = row.started_at is not None
        self._pace = load(row.pace)
        self._pace.tick(row.now.timestamp(), row.processing, moving=self._may_start)
        self._jobs: dict[str, Job] | None = {}
        """The changed jobs for the frame; None when readers had better ask PostgreSQL."""
        self._lines: list[Line] = []
        self._line_count: int = row.line_count
        self._transitions = Transitions()
        self._reason = "jobs"
        self._message: str | None = None
        self._touched = False
        self._lane = Lane(connection, batch_id)

    @property
    def startable(self) -> int:
        """How many jobs may be started now, by what was asked of the batch and its limit."""
        if self._paused or self._held or self._cancel_requested:
            return 0
        if self.batch.concurrency is None:
            return self._counts.queued
        return max(0, int(self.batch.concurrency) - self._counts.processing)

    @property
    def _may_start(self) -> bool:
        """Whether a worker that had room for it would have found something to start."""
        stopped = self._paused or self._held or self._cancel_requested
        return self._started and not stopped and self._counts.queued > self._delayed

    def start(self, ids: Sequence[UUID], token: UUID, lease: float) -> list[Row[Any]]:
        """Those reserved under `token` that are still queued begin to run. `lease` in seconds."""
        parameters = {"ids": list(ids), "token": token, "lease": lease, "version": self.version}
        rows = list(self._connection.execute(queries.START_JOBS, parameters))
        for row in rows:
            self._counts.move(JobStatus.QUEUED, JobStatus.PROCESSING)
            self._delayed -= row.delayed
            self._transitions.note(row.id, JobStatus.QUEUED, JobStatus.PROCESSING, row.attempt, "started")
            self._show(row)
        if rows and not self._started:
            self._started = True
            self._pace.history = history_of(self._connection, self.batch.kind)
        return rows

    def started(self, ids: Sequence[UUID], token: UUID) -> list[Row[Any]]:
        """Those that run under `token` already: after a commit whose outcome was unknown."""
        return list(self._connection.execute(queries.STARTED_JOBS, {"ids": list(ids), "token": token}))

    def release(self, ids: Sequence[UUID], token: UUID) -> None:
        """Reservations that may not be started go back."""
        self._connection.execute(queries.RELEASE, {"ids": list(ids), "token": token})
        self._lane.wake = True

    def update(self, updates: Sequence[JobUpdate], *, only_expired: bool = False) -> set[UUID]:
        """Those that still hold their token get on or end; returns which. `only_expired`: and whose lease is over."""
        if not updates:
            return set()
        for update in updates:
            if update.artifacts:
                record_artifacts(self._connection, self.batch.id, update.id, update.token, update.artifacts)
        by_id = {update.id: update for update in updates}
        rows = list(
            self._connection.execute(
                queries.UPDATE_JOBS,
                {"version": self.version, "only_expired": only_expired, **update_columns(updates)},
            )
        )
        for row in rows:
            update, status = by_id[row.id], JobStatus(row.status)
            self._progress_sum += contribution(status, row.progress) - row.old_progress
            self._failed_items += (row.items_failed or 0) - row.old_items_failed
            if status is not JobStatus.PROCESSING:
                self._counts.move(JobStatus.PROCESSING, status)
                self._delayed += row.run_after is not None
                self._learn(row, status, counts=update.counts)
                self._lane.wake |= status is JobStatus.QUEUED or self.batch.concurrency is not None
                reason = self._cancelled_for if status is JobStatus.CANCELLED else update.reason
                message = None if update.error is None else failure_text(update.error)
                self._transitions.note(row.id, JobStatus.PROCESSING, status, row.attempt, reason, message)
            self._show(row)
        return {row.id for row in rows}

    def add_lines(self, lines: Iterable[NewLine]) -> None:
        """Log lines of jobs whose update was accepted. One that is stored already is left as it is."""
        lines = sorted(lines, key=lambda line: (line.at, line.job_id, line.n))
        if not lines:
            return
        added = self._connection.execute(
            queries.ADD_LINES,
            {"batch_id": self.batch.id, "version": self.version, **line_columns(lines)},
        ).rowcount
        self._touched = True
        self._line_count += added
        if added == len(lines):
            self._lines += [
                Line(str(line.job_id), line.attempt, line.n, stamp(line.at), line.level, line.text) for line in lines
            ]
        else:
            self._jobs = None  # some belong to an earlier version: readers ask PostgreSQL

    def append(self, jobs: Sequence[NewJob], uploads: Collection[UUID] = ()) -> None:
        """More jobs, behind those that are there; `uploads`: those that they name."""
        first = self._counts.total
        ids = copy_jobs(self._connection, self.batch.id, jobs, first=first, version=self.version)
        if uploads:
            uses = {"batch_id": self.batch.id, "ids": sorted(uploads)}
            self._connection.execute(queries.USE_UPLOADS_FOR, uses)
        self._counts.queued += len(jobs)
        self._counts.total += len(jobs)
        self._lane.wake = True
        if self._jobs is None or len(jobs) > _MOST_SHOWN:
            self._jobs = None
        else:
            new = (new_job(*job) for job in zip(ids, count(first), jobs, strict=False))
            self._jobs |= {job.id: job for job in new}
        self._touched = True

    def end_appending(self) -> None:
        """There will be no more jobs: once all have ended, the batch has."""
        self._open, self._reason, self._touched = False, "closed", True

    def let_begin(self) -> None:
        """The batch that it waited for has ended as it should."""
        self._lane.let_go()
        self._held, self._touched = False, True

    def give_up_waiting(self, reason: str, message: str) -> None:
        """That one has not, so this one is cancelled. Whoever has it run again all the same need not wait any more."""
        self.cancel(reason, message)
        self._held = False

    def cancel(self, reason: str | None = None, message: str | None = None) -> None:
        """The batch is to end: queued jobs at once, running ones are asked to. A pause is lifted, no jobs are added.

        `reason` and `message`: for the history, where it is not because somebody asked for it.
        """
        gone = self._connection.execute(queries.CANCEL_QUEUED, {**self._here, "reason": reason or "cancelled"}).one()
        self._connection.execute(queries.REQUEST_CANCEL, self._here)
        self._counts.move(JobStatus.QUEUED, JobStatus.CANCELLED, gone.jobs)
        self._progress_sum += int(gone.progress)
        self._delayed = 0
        if self._paused:
            self.resume()
        self._cancel_requested, self._cancel_reason, self._message = True, reason, message
        self._open = False
        self._jobs = None
        self._touched = True

    def pause(self) -> None:
        """Nothing more is started; what runs goes on."""
        self._set_paused(True, "paused")

    def resume(self) -> None:
        self._set_paused(False, "resumed")
        self._lane.wake = True

    def cancel_job(self, job_id: UUID) -> bool:
        """The job is to end: at once if it is queued, else it is asked to. Whether that changed anything."""
        parameters = {"id": job_id, "version": self.version}
        row = self._connection.execute(queries.CANCEL_QUEUED_JOB, parameters).one_or_none()
        if row is not None:
            self._counts.move(JobStatus.QUEUED, JobStatus.CANCELLED)
            self._progress_sum += 100 - row.old_progress
            self._delayed -= row.delayed
            self._transitions.note(row.id, JobStatus.QUEUED, JobStatus.CANCELLED, row.attempt, "cancelled")
            self._lane.wake |= self.batch.concurrency is not None  # it may have been reserved
        else:
            row = self._connection.execute(queries.REQUEST_CANCEL_JOB, parameters).one_or_none()
        if row is not None:
            self._show(row)
        return row is not None

    def retry_failed(self) -> int:
        """All failed jobs are queued again; how many. Raises Unrunnable."""
        again = self._connection.execute(queries.RETRY_FAILED, self._here).one()
        if again.jobs:
            self._counts.move(JobStatus.FAILED, JobStatus.QUEUED, again.jobs)
            self._progress_sum -= int(again.progress)
            self._failed_items -= int(again.items_failed)
            self._jobs = None
            self._reopen()
        return int(again.jobs)

    def retry_job(self, job_id: UUID) -> bool:
        """One failed or cancelled job is queued again. False if it is neither. Raises Unrunnable."""
        parameters = {"id": job_id, "version": self.version}
        row = self._connection.execute(queries.RETRY_JOB, parameters).one_or_none()
        if row is None:
            return False
        old = JobStatus(row.old_status)
        self._counts.move(old, JobStatus.QUEUED)
        self._progress_sum -= 100 - row.progress
        self._failed_items -= row.old_items_failed
        self._transitions.note(row.id, old, JobStatus.QUEUED, row.attempt, "retried")
        self._show(row)
        self._reopen()
        return True

    def close(self) -> Frame | None:
        """Writes the batch; what `commit` is to publish. None if nothing was changed."""
        if not self._touched:
            self._lane.leave()
            return None
        old = BatchStatus(self.batch.status)
        new = batch_status(
            self._counts,
            started=self._started,
            paused=self._paused,
            cancel_requested=self._cancel_requested,
            failed_items=self._failed_items,
            still_open=self._open,
        )
        if new is not old:
            reason = self._cancelled_for if self._cancel_requested else self._reason
            self._transitions.note(None, old, new, None, reason, self._message)
        self._transitions.write(self._connection, self.batch.id)
        final = new in FINAL_BATCH
        row = self._connection.execute(
            queries.UPDATE_BATCH,
            {
                "id": self.batch.id,
                "version": self.version,
                "status": new,
                "queued": self._counts.queued,
                "processing": self._counts.processing,
                "completed": self._counts.completed,
                "failed": self._counts.failed,
                "cancelled": self._counts.cancelled,
                "total": self._counts.total,
                "progress_sum": self._progress_sum,
                "failed_items": self._failed_items,
                "line_count": self._line_count,
                "delayed": self._delayed,
                "next_due": self._next_due(),
                "paused": self._paused,
                "cancel_requested": self._cancel_requested,
                "cancel_reason": self._cancel_reason,
                "open": self._open,
                "held": self._held,
                "summary": summary_of(self._connection, self.batch.id, self.batch.kind) if final else None,
                "pace": dump(self._pace) if self._started else None,
                "started": self._started,
                "finished": final,
            },
        ).one()
        if final:
            self._lane.close()
            remember_batch(self._connection, self.batch.kind, self._pace)
        else:
            self._lane.leave()
        batch, delta = batch_of(row), None
        if self._jobs is not None:
            delta = Delta(batch, list(self._jobs.values()), self._lines, self._line_count)
        frame = make_frame(self.batch.epoch, self.batch.version, batch, delta)
        # a request's change is told of by the publisher as that; of all others the batch's creation is the cause
        frame.traceparent = "" if CURRENT.get() else self.batch.traceparent or ""
        return frame

    @property
    def _cancelled_for(self) -> str:
        """Why, in the history; of the batch, or of one job of it."""
        return self._cancel_reason or "cancelled"

    @property
    def _here(self) -> dict[str, Any]:
        return {"batch_id": self.batch.id, "version": self.version}

    def _set_paused(self, paused: bool, reason: str) -> None:
        self._lane.pause(paused)
        self._paused, self._reason = paused, reason
        self._touched = True

    def _reopen(self) -> None:
        """There is something to run again."""
        self._touched = self._lane.wake = True
        if BatchStatus(self.batch.status) not in FINAL_BATCH:
            return
        kind = KINDS.get(self.batch.kind)
        if kind is None:
            raise Unrunnable(self.batch.kind)
        self._started = True  # it counts as begun, also if it was cancelled before its first start
        self._cancel_requested, self._cancel_reason, self._paused, self._reason = False, None, False, "retried"
        # what kept it from beginning still does, unless that was what ended it
        add_lane(self._connection, self.batch, kind.queue, held=self._held)

    def _next_due(self) -> datetime | None:
        """Looked up only when nothing but resting jobs is left."""
        if self._counts.processing or not self._counts.queued or self._counts.queued != self._delayed:
            return None
        due: datetime | None = self._connection.execute(queries.NEXT_DUE, {"batch_id": self.batch.id}).scalar_one()
        return due

    def _learn(self, row: Row[Any], status: JobStatus, *, counts: bool) -> None:
        """How long an attempt took that has ended; `counts`: against the kind's attempts."""
        seconds = ((row.finished_at or self.batch.now) - row.started_at).total_seconds()
        if status is JobStatus.COMPLETED:
            self._pace.complete(seconds)
        elif status is JobStatus.FAILED:
            self._pace.fail(seconds)
        elif status is JobStatus.QUEUED and counts:
            self._pace.retry(seconds)
        else:
            self._pace.leave(seconds)

    def _show(self, row: Row[Any]) -> None:
        self._touched = True
        if self._jobs is not None:
            job = job_of(row)
            self._jobs[job.id] = job  # started and ended in one change: the later state counts
