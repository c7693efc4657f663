"""Claiming jobs. Touches leases and lanes only and waits for no batch and no job: it needs no batch's lock."""

from sqlalchemy import text

# Reserves up to :jobs runnable jobs of a queue: by priority, owners in turn, each owner's batches in turn, then by
# position, within all limits. To be run by itself, in no transaction: see the function, in infra/migrations/claim.py.
CLAIM = text("""
    SELECT c.id, c.batch_id, c.position
    FROM headway_claim(
        CAST(:queue AS text), CAST(:jobs AS int), CAST(:token AS uuid), CAST(:lease AS float8),
        CAST(:ending AS uuid[]), CAST(:owner_limit AS int),
        CAST(:kinds AS text[]), CAST(:kind_limits AS int[]), CAST(:kind_rates AS float8[])
    ) c
""")

# What a lane offers; each part from an index of its own. (An index cannot be asked for clock_timestamp().)
_OFFERED = """
    SELECT 1 FROM (
        SELECT 1 FROM jobs c
        WHERE c.batch_id = l.batch_id AND c.status = 'QUEUED' AND c.lease_token IS NULL
            AND c.run_after <= statement_timestamp()
        UNION ALL
        SELECT 1 FROM jobs c
        WHERE c.batch_id = l.batch_id AND c.status = 'QUEUED' AND c.lease_token IS NULL AND c.run_after IS NULL
    ) u
    LIMIT CASE WHEN l.concurrency IS NULL THEN CAST(:jobs AS bigint) ELSE GREATEST(0, LEAST(:jobs,
        l.concurrency - (SELECT count(*) FROM jobs r WHERE r.batch_id = l.batch_id AND r.lease_token IS NOT NULL))) END
"""

# Up to :jobs of a queue's jobs that could be claimed now, but for the limits of owners and kinds.
RUNNABLE = text(f"""
    SELECT count(*) FROM (
        SELECT 1 FROM (
            SELECT x.batch_id, x.concurrency FROM lanes x
            WHERE x.queue = :queue AND x.ready AND NOT x.paused AND x.after_batch IS NULL
            UNION ALL
            SELECT x.batch_id, x.concurrency FROM lanes x
            WHERE x.queue = :queue AND NOT x.ready AND x.ready_at <= statement_timestamp()
                AND NOT x.paused AND x.after_batch IS NULL
        ) l CROSS JOIN LATERAL ({_OFFERED}) j
        LIMIT :jobs
    ) runnable
""")

# Reservations that came to nothing go back; nobody has seen them, so no version.
RELEASE = text("""
    UPDATE jobs j SET lease_token = NULL, lease_until = NULL
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.lease_token = :token AND j.status = 'QUEUED'
""")

# The lanes of a CTE `released` have something again (WAKE_LANE), each locked before the next.
_WAKE_RELEASED = """
    UPDATE lanes l SET ready = true, ready_at = NULL
    WHERE l.batch_id IN (
        SELECT w.batch_id FROM lanes w WHERE w.batch_id IN (SELECT r.batch_id FROM released r)
        ORDER BY w.batch_id FOR NO KEY UPDATE
    )
"""

# The same for claims whose outcome is unknown: what they did reserve, nobody else would take before the lease is over.
RELEASE_CLAIMS = text(f"""
    WITH released AS (
        UPDATE jobs j SET lease_token = NULL, lease_until = NULL
        WHERE j.id IN (
            SELECT h.id FROM jobs h
            WHERE h.lease_token IS NOT NULL AND h.lease_token = ANY(CAST(:tokens AS uuid[])) AND h.status = 'QUEUED'
            FOR NO KEY UPDATE SKIP LOCKED
        )
        RETURNING j.batch_id
    ) {_WAKE_RELEASED}
""")

# Reservations whose worker is not heard of any more.
RELEASE_EXPIRED = text(f"""
    WITH released AS (
        UPDATE jobs j SET lease_token = NULL, lease_until = NULL
        WHERE j.id IN (
            SELECT h.id FROM jobs h
            WHERE h.lease_token IS NOT NULL AND h.status = 'QUEUED' AND h.lease_until < clock_timestamp()
            FOR NO KEY UPDATE SKIP LOCKED
        )
        RETURNING j.batch_id
    ) {_WAKE_RELEASED}
""")

# There may be something to claim in a lane again. Unconditional, for a claim that saw nothing may hold its row just now
# and say so; and the last write of whoever makes it so. Before its batch may begin a lane wakes by itself only.
WAKE_LANE = text("""
    UPDATE lanes l
    SET ready = b.run_after IS NULL OR b.run_after <= clock_timestamp(),
        ready_at = CASE WHEN b.run_after > clock_timestamp() THEN b.run_after END
    FROM batches b
    WHERE l.batch_id = :batch_id AND b.id = l.batch_id
""")

# Whose turn it was among the batches of owners who have none any more, :rows at most. What a claim is writing just now
# is left alone.
FORGET_TURNS = text("""
    DELETE FROM owner_turns t
    USING (
        SELECT f.queue, f.priority, f.owner FROM owner_turns f
        WHERE NOT EXISTS (SELECT FROM lanes l WHERE l.queue = f.queue AND l.owner = f.owner)
        LIMIT :rows FOR UPDATE OF f SKIP LOCKED
    ) gone
    WHERE t.queue = gone.queue AND t.priority = gone.priority AND t.owner = gone.owner
""")
