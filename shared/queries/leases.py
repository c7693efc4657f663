"""Leases: who still holds what."""

from sqlalchemy import text

from shared.queries.reporting import SILENCE_OF_JOB

# Those of my jobs that are still mine, with what was asked of them. The ids twice, as in UPDATE_JOBS.
HELD = text("""
    SELECT j.id, j.cancel_requested FROM jobs j
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS u (id, token) ON u.id = j.id
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.lease_token = u.token AND j.status = 'PROCESSING'
""")

# A row that is locked is left out, so that this never waits for a change of its batch: its turn comes again soon.
RENEW = text("""
    UPDATE jobs j SET lease_until = clock_timestamp() + CAST(:lease AS float8) * interval '1 second'
    WHERE j.id IN (
        SELECT h.id FROM jobs h
        JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS u (id, token) ON u.id = h.id
        WHERE h.id = ANY(CAST(:ids AS uuid[])) AND h.lease_token = u.token AND h.status = 'PROCESSING'
        FOR NO KEY UPDATE OF h SKIP LOCKED
    )
""")

# Running jobs whose worker was not heard of any more at :now; `silence` of those that are reported from elsewhere, in
# seconds. Of these none while things have been :steady for less than that, up to a minute: after an outage programs
# take longer than workers to come back.
EXPIRED = text(f"""
    SELECT j.id, j.batch_id, j.lease_token, j.attempt, j.failures, j.last_line, b.kind, clock_timestamp() AS now,
        CASE WHEN b.kind = 'external' THEN {SILENCE_OF_JOB} END AS silence
    FROM jobs j JOIN batches b ON b.id = j.batch_id
    WHERE j.lease_token IS NOT NULL AND j.status = 'PROCESSING' AND j.lease_until < :now
        AND (b.kind <> 'external' OR CAST(:steady AS timestamptz) + LEAST(60, {SILENCE_OF_JOB}) * interval '1 second'
            < :now)
    ORDER BY j.batch_id LIMIT :jobs
""")

# This server's clock, by which leases go, and since when it has been up.
CLOCK = text("SELECT clock_timestamp() AS now, pg_postmaster_start_time() AS up_since")

# One sweeper at a time, and one that deletes. Held by the transaction, not the session, so that PgBouncer may be
# between.
TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:lock)")

# Whoever has it and changes one batch after the other may be idle for longer than usual (see database.py); one that is
# frozen meanwhile keeps the others waiting for so long.
KEEP_LOCK = text("SET LOCAL idle_in_transaction_session_timeout = '20s'")
