"""Progress from elsewhere. But for the first, all of it runs under the batch's lock."""

from sqlalchemy import text

from shared.kinds.external import SILENCE

SILENCE_OF_JOB = f"coalesce(CAST(j.params ->> 'silenceSeconds' AS float8), {SILENCE})"
"""Seconds, of a job of the kind `external`; parameters are stored as they were given."""

# Where a job stands, for whoever reports of it.
REPORTED_JOB = text(f"""
    SELECT j.id, j.batch_id, b.kind, b.paused, j.status, j.attempt, j.failures, j.cancel_requested, j.lease_token,
        j.reported, j.reported_run, j.last_line, j.progress, j.step, j.message, j.items_done, j.items_failed,
        j.items_total, j.started_at, CASE WHEN b.kind = 'external' THEN {SILENCE_OF_JOB} END AS silence
    FROM jobs j JOIN batches b ON b.id = j.batch_id WHERE j.id = :id AND b.owner = :owner
""")

# A queued job becomes a run's, to be started. It had another run's reports, or none.
TAKE_FOR_RUN = text("""
    UPDATE jobs j SET lease_token = :run, reported_run = :run, reported = 0 WHERE j.id = :id AND j.status = 'QUEUED'
""")

# A run was heard of: up to which report, and until when its silence is borne.
NOTE_REPORTS = text("""
    UPDATE jobs j
    SET reported = :sequence,
        lease_until = clock_timestamp() + CAST(:silence AS float8) * interval '1 second'
    WHERE j.id = :id AND j.lease_token = :run AND j.status = 'PROCESSING'
""")
