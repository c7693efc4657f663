"""Claiming jobs. Touches leases and lanes only and waits for no batch and no job: it needs no batch's lock."""

from sqlalchemy import text

# What a lane offers: first what has rested long enough, then the rest by position; each from an index of its own, so
# that neither jobs that still rest nor those that run cost anything. (An index cannot be asked for clock_timestamp().)
_OFFERED = """
    SELECT u.id FROM (
        SELECT d.id FROM (
            SELECT c.id FROM jobs c
            WHERE c.batch_id = l.batch_id AND c.status = 'QUEUED' AND c.lease_token IS NULL
                AND c.run_after <= statement_timestamp()
            ORDER BY c.run_after {lock}
        ) d
        UNION ALL
        SELECT r.id FROM (
            SELECT c.id FROM jobs c
            WHERE c.batch_id = l.batch_id AND c.status = 'QUEUED' AND c.lease_token IS NULL AND c.run_after IS NULL
            ORDER BY c.position {lock}
        ) r
    ) u
    LIMIT CASE WHEN l.concurrency IS NULL THEN CAST(:jobs AS bigint) ELSE GREATEST(0, LEAST(:jobs,
        l.concurrency - (SELECT count(*) FROM jobs r WHERE r.batch_id = l.batch_id AND r.lease_token IS NOT NULL))) END
"""

# Reserves up to :jobs runnable jobs of a queue: by the batch's priority, then its age, then position. It takes no
# batch lock and waits for no lock. `concurrency` is respected here as well as one snapshot can, and exactly at START.
# Written so that no plan, however wrong the statistics are, locks more than it takes: the lanes are ordered first
# (an outer ORDER BY may sort, and so lock, the jobs of all lanes, and others find none), jobs are updated by key.
CLAIM = text(f"""
    WITH picked AS (
        SELECT j.id FROM (
            SELECT x.batch_id, x.concurrency FROM lanes x WHERE x.queue = :queue AND NOT x.paused
            ORDER BY x.priority DESC, x.batch_id OFFSET 0
        ) l CROSS JOIN LATERAL ({_OFFERED.format(lock="FOR NO KEY UPDATE SKIP LOCKED")}) j
        LIMIT :jobs
    )
    UPDATE jobs j
    SET lease_token = :token, lease_until = clock_timestamp() + CAST(:lease AS float8) * interval '1 second'
    WHERE j.id = ANY(ARRAY(SELECT picked.id FROM picked))
    RETURNING j.id, j.batch_id, j.position
""")

# Up to :jobs of a queue's jobs that could be claimed now.
RUNNABLE = text(f"""
    SELECT count(*) FROM (
        SELECT 1 FROM lanes l CROSS JOIN LATERAL ({_OFFERED.format(lock="")}) j
        WHERE l.queue = :queue AND NOT l.paused
        LIMIT :jobs
    ) runnable
""")

# Reservations that came to nothing go back; nobody has seen them, so no version.
RELEASE = text("""
    UPDATE jobs j SET lease_token = NULL, lease_until = NULL
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.lease_token = :token AND j.status = 'QUEUED'
""")

# The same for claims whose outcome is unknown: what they did reserve, nobody else would take before the lease is over.
RELEASE_CLAIMS = text("""
    UPDATE jobs j SET lease_token = NULL, lease_until = NULL
    WHERE j.id IN (
        SELECT h.id FROM jobs h
        WHERE h.lease_token IS NOT NULL AND h.lease_token = ANY(CAST(:tokens AS uuid[])) AND h.status = 'QUEUED'
        FOR NO KEY UPDATE SKIP LOCKED
    )
""")
