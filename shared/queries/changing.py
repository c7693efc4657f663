"""Changing a batch. All of it runs under the batch's lock (LOCK_BATCH): commit order is version order."""

from sqlalchemy import text

from shared.queries.columns import BATCH_COLUMNS, JOB_COLUMNS

# The first statement of every change: commit order becomes version order.
LOCK_BATCH = text(f"""
    SELECT {BATCH_COLUMNS}, b.traceparent, b.tracestate, headway_epoch() AS epoch, clock_timestamp() AS now
    FROM batches b WHERE b.id = :id FOR NO KEY UPDATE
""")

# Reserved jobs begin to run, if they are still queued under their token. `delayed`: it had rested until a given time.
START_JOBS = text(f"""
    UPDATE jobs j
    SET status = 'PROCESSING', attempt = j.attempt + 1, step = NULL, message = NULL, metadata = NULL,
        error_code = NULL, error_message = NULL, run_after = NULL, started_at = clock_timestamp(), version = :version,
        lease_until = clock_timestamp() + CAST(:lease AS float8) * interval '1 second'
    FROM jobs old
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.lease_token = :token AND j.status = 'QUEUED' AND old.id = j.id
    RETURNING {JOB_COLUMNS}, j.params, j.checkpoint, j.failures, j.last_line, old.run_after IS NOT NULL AS delayed,
        old.run_after AS due
""")

# After a commit whose outcome is unknown: those that it did start.
STARTED_JOBS = text(f"""
    SELECT {JOB_COLUMNS}, j.params, j.checkpoint, j.failures, j.last_line, j.run_after AS due FROM jobs j
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.lease_token = :token AND j.status = 'PROCESSING'
""")

# Running jobs get on, or end. Fenced: only while the job runs under the given token (and, for the sweeper, only if the
# lease is over). After a cancel nothing goes back to the queue or fails: it is cancelled. The ids are given twice more:
# a plan that was made without knowing how many they are would rather read everything that runs anywhere.
UPDATE_JOBS = text(f"""
    WITH wanted AS (
        SELECT u.*, j.progress AS old_progress, coalesce(j.items_failed, 0) AS old_items_failed,
            CASE WHEN j.cancel_requested AND u.status IN ('QUEUED', 'FAILED') THEN 'CANCELLED' ELSE u.status END AS ends
        FROM unnest(
            CAST(:ids AS uuid[]), CAST(:tokens AS uuid[]), CAST(:statuses AS text[]), CAST(:progress AS int[]),
            CAST(:steps AS text[]), CAST(:messages AS text[]),
            CAST(:items_done AS int[]), CAST(:items_failed AS int[]), CAST(:items_total AS int[]),
            CAST(:metadata AS text[]), CAST(:checkpoints AS text[]),
            CAST(:last_lines AS bigint[]), CAST(:error_codes AS text[]), CAST(:error_messages AS text[]),
            CAST(:results AS text[]), CAST(:delays AS float8[]), CAST(:counts AS boolean[])
        ) AS u (id, token, status, progress, step, message, items_done, items_failed, items_total,
                metadata, checkpoint, last_line, error_code, error_message, result, delay, counts)
        JOIN jobs j ON j.id = u.id AND j.id = ANY(CAST(:ids AS uuid[]))
    )
    UPDATE jobs j
    SET status = w.ends,
        progress = CASE WHEN w.ends = 'COMPLETED' THEN 100 ELSE LEAST(99, GREATEST(j.progress, w.progress)) END,
        step = coalesce(w.step, j.step), message = coalesce(w.message, j.message),
        items_done = CASE WHEN w.ends <> 'QUEUED' THEN coalesce(w.items_done, j.items_done) END,
        items_failed = CASE WHEN w.ends <> 'QUEUED' THEN coalesce(w.items_failed, j.items_failed) END,
        items_total = CASE WHEN w.ends <> 'QUEUED' THEN coalesce(w.items_total, j.items_total) END,
        metadata = coalesce(CAST(w.metadata AS json), j.metadata),
        checkpoint = CASE WHEN w.ends <> 'COMPLETED' THEN coalesce(CAST(w.checkpoint AS json), j.checkpoint) END,
        last_line = GREATEST(j.last_line, w.last_line),
        failures = j.failures + CAST(w.counts AS int),
        error_code = CASE WHEN w.ends IN ('FAILED', 'QUEUED') THEN w.error_code END,
        error_message = CASE WHEN w.ends IN ('FAILED', 'QUEUED') THEN w.error_message END,
        result = CASE WHEN w.ends = 'COMPLETED' THEN CAST(w.result AS jsonb) END,
        run_after = CASE WHEN w.ends = 'QUEUED' THEN clock_timestamp() + w.delay * interval '1 second' END,
        finished_at = CASE WHEN w.ends IN ('COMPLETED', 'FAILED', 'CANCELLED') THEN clock_timestamp() END,
        lease_token = CASE WHEN w.ends = 'PROCESSING' THEN j.lease_token END,
        lease_until = CASE WHEN w.ends = 'PROCESSING' THEN j.lease_until END,
        version = :version
    FROM wanted w
    WHERE j.id = w.id AND j.id = ANY(CAST(:ids AS uuid[])) AND j.lease_token = w.token AND j.status = 'PROCESSING'
        AND (NOT CAST(:only_expired AS boolean) OR j.lease_until < clock_timestamp())
    RETURNING {JOB_COLUMNS}, w.old_progress, w.old_items_failed
""")

# Log lines; one that is there already (a repeated commit) is left as it is.
ADD_LINES = text("""
    INSERT INTO log_lines (job_id, n, batch_id, attempt, at, level, text, version)
    SELECT u.job_id, u.n, :batch_id, u.attempt, u.at, u.level, u.text, :version
    FROM unnest(
        CAST(:job_ids AS uuid[]), CAST(:numbers AS bigint[]), CAST(:attempts AS int[]), CAST(:times AS timestamptz[]),
        CAST(:levels AS text[]), CAST(:texts AS text[])
    ) AS u (job_id, n, attempt, at, level, text)
    ON CONFLICT DO NOTHING
""")

# Who is to be told of the transitions that were just `noted`: all listeners that there are. Where one still has to be
# told of earlier ones, its row says from which on, and when.
_NEWS = """
    INSERT INTO outbox (listener, batch_id, delivered, last, failures, due_at)
    SELECT l.name, :batch_id, new.first - 1, new.last, 0, clock_timestamp()
    FROM listeners l
    CROSS JOIN (SELECT min(noted.id) AS first, max(noted.id) AS last FROM noted HAVING count(*) > 0) new
    ON CONFLICT (listener, batch_id) DO UPDATE SET last = excluded.last
"""

ADD_TRANSITIONS = text(f"""
    WITH noted AS (
        INSERT INTO transitions (batch_id, job_id, old_status, new_status, attempt, at, reason, message)
        SELECT :batch_id, u.job_id, u.old_status, u.new_status, u.attempt, clock_timestamp(), u.reason, u.message
        FROM unnest(
            CAST(:job_ids AS uuid[]), CAST(:old_statuses AS text[]), CAST(:new_statuses AS text[]),
            CAST(:attempts AS int[]), CAST(:reasons AS text[]), CAST(:messages AS text[])
        ) AS u (job_id, old_status, new_status, attempt, reason, message)
        RETURNING id
    )
    {_NEWS}
""")

# All queued jobs of a batch end as cancelled; their number and what that adds to the
# progress sum. Reserved ones too: their claimer finds them no longer queued.
CANCEL_QUEUED = text(f"""
    WITH gone AS (
        UPDATE jobs j
        SET status = 'CANCELLED', finished_at = clock_timestamp(), run_after = NULL, lease_token = NULL,
            lease_until = NULL, error_code = NULL, error_message = NULL, version = :version
        WHERE j.batch_id = :batch_id AND j.status = 'QUEUED'
        RETURNING j.id, j.attempt, j.progress
    ), noted AS (
        INSERT INTO transitions (batch_id, job_id, old_status, new_status, attempt, at, reason)
        SELECT :batch_id, gone.id, 'QUEUED', 'CANCELLED', gone.attempt, clock_timestamp(), :reason FROM gone
        RETURNING id
    ), news AS (
        {_NEWS}
    )
    SELECT count(*) AS jobs, coalesce(sum(100 - progress), 0) AS progress FROM gone
""")

# One queued job ends as cancelled.
CANCEL_QUEUED_JOB = text(f"""
    UPDATE jobs j
    SET status = 'CANCELLED', finished_at = clock_timestamp(), run_after = NULL, lease_token = NULL,
        lease_until = NULL, error_code = NULL, error_message = NULL, version = :version
    FROM jobs old
    WHERE j.id = :id AND j.status = 'QUEUED' AND old.id = j.id
    RETURNING {JOB_COLUMNS}, old.progress AS old_progress, old.run_after IS NOT NULL AS delayed
""")

# One running job is asked to end.
REQUEST_CANCEL_JOB = text(f"""
    UPDATE jobs j SET cancel_requested = true, version = :version
    WHERE j.id = :id AND j.status = 'PROCESSING' AND NOT j.cancel_requested
    RETURNING {JOB_COLUMNS}
""")

# Failed jobs of a batch are queued again, with their kind's attempts anew; how many, and what of their batch's progress
# sum and failed items goes with their ends. What they reached stays: a job's progress does not fall.
RETRY_FAILED = text(f"""
    WITH again AS (
        UPDATE jobs j
        SET status = 'QUEUED', failures = 0, step = NULL, message = NULL, items_done = NULL, items_failed = NULL,
            items_total = NULL, metadata = NULL, error_code = NULL, error_message = NULL, result = NULL,
            run_after = NULL, cancel_requested = false, finished_at = NULL, version = :version
        FROM jobs old
        WHERE j.batch_id = :batch_id AND j.status = 'FAILED' AND old.id = j.id AND old.batch_id = j.batch_id
        RETURNING j.id, j.attempt, j.progress, coalesce(old.items_failed, 0) AS items_failed
    ), noted AS (
        INSERT INTO transitions (batch_id, job_id, old_status, new_status, attempt, at, reason)
        SELECT :batch_id, again.id, 'FAILED', 'QUEUED', again.attempt, clock_timestamp(), 'retried' FROM again
        RETURNING id
    ), news AS (
        {_NEWS}
    )
    SELECT count(*) AS jobs, coalesce(sum(100 - progress), 0) AS progress,
        coalesce(sum(items_failed), 0) AS items_failed
    FROM again
""")

# The same for one job, which may also be cancelled.
RETRY_JOB = text(f"""
    UPDATE jobs j
    SET status = 'QUEUED', failures = 0, step = NULL, message = NULL, items_done = NULL, items_failed = NULL,
        items_total = NULL, metadata = NULL, error_code = NULL, error_message = NULL, result = NULL,
        run_after = NULL, cancel_requested = false, finished_at = NULL, version = :version
    FROM jobs old
    WHERE j.id = :id AND j.status IN ('FAILED', 'CANCELLED') AND old.id = j.id
    RETURNING {JOB_COLUMNS}, old.status AS old_status, coalesce(old.items_failed, 0) AS old_items_failed
""")

# The earliest time at which one of a batch's resting jobs may run again, or null. (Of a min() all may be read.)
NEXT_DUE = text("""
    SELECT (
        SELECT j.run_after FROM jobs j
        WHERE j.batch_id = :batch_id AND j.status = 'QUEUED' AND j.lease_token IS NULL AND j.run_after IS NOT NULL
        ORDER BY j.run_after LIMIT 1
    )
""")

# Running jobs of a batch are asked to end. (Whatever runs has a token; with that said, nothing else is read.)
REQUEST_CANCEL = text("""
    UPDATE jobs j SET cancel_requested = true, version = :version
    WHERE j.batch_id = :batch_id AND j.status = 'PROCESSING' AND j.lease_token IS NOT NULL AND NOT j.cancel_requested
""")

# The last statement of every change.
UPDATE_BATCH = text(f"""
    UPDATE batches b
    SET version = :version, status = :status, queued = :queued, processing = :processing, completed = :completed,
        failed = :failed, cancelled = :cancelled, total = :total, progress_sum = :progress_sum,
        failed_items = :failed_items,
        line_count = :line_count, delayed = :delayed, next_due = :next_due, paused = :paused,
        cancel_requested = :cancel_requested, cancel_reason = :cancel_reason, open = :open, held = :held,
        summary = CAST(:summary AS jsonb), pace = CAST(:pace AS jsonb),
        started_at = CASE WHEN :started THEN coalesce(b.started_at, clock_timestamp()) ELSE b.started_at END,
        finished_at = CASE WHEN :finished THEN clock_timestamp() END
    WHERE b.id = :id
    RETURNING {BATCH_COLUMNS}
""")

CLOSE_LANE = text("DELETE FROM lanes WHERE batch_id = :batch_id")

# The batch that it waited for has ended.
LET_GO_LANE = text("UPDATE lanes SET after_batch = NULL WHERE batch_id = :batch_id")

PAUSE_LANE = text("UPDATE lanes SET paused = :paused WHERE batch_id = :batch_id")

# Adding up 10,000 results may take longer than a change is usually allowed to be idle (see database.py).
ALLOW_SUMMARY = text("SET LOCAL idle_in_transaction_session_timeout = '60s'")

# What a summary is made of, in job order.
RESULTS = text("""
    SELECT CAST(j.result AS text) AS result FROM jobs j
    WHERE j.batch_id = :batch_id AND j.status = 'COMPLETED' ORDER BY j.position
""")
