"""Artifacts: files that handlers give to their users. A row is there before its file and goes after it."""

from sqlalchemy import text

# Before the file is there, and so that it goes if it is never recorded.
ADD_ARTIFACT = text("""
    INSERT INTO artifacts (id, attempt, name, size, content_type, created_at, expires_at)
    VALUES (:id, :attempt, :name, 0, '', clock_timestamp(),
        clock_timestamp() + CAST(:ttl AS float8) * interval '1 second')
    ON CONFLICT DO NOTHING
""")

# The following run under the lock of the job's batch. First, what a job has that still runs under the token.
ARTIFACTS_OF_RUN = text("""
    SELECT j.artifacts FROM jobs j WHERE j.id = :job_id AND j.lease_token = :token AND j.status = 'PROCESSING'
""")

# The files become the job's; returns those that are not gone already.
RECORD_ARTIFACTS = text("""
    UPDATE artifacts a SET batch_id = :batch_id, job_id = :job_id, size = u.size, content_type = u.content_type
    FROM unnest(CAST(:ids AS uuid[]), CAST(:sizes AS bigint[]), CAST(:content_types AS text[]))
        AS u (id, size, content_type)
    WHERE a.id = u.id AND (a.job_id = :job_id OR a.expires_at > clock_timestamp()) RETURNING a.id
""")

# What readers see; and all others are nobody's any more.
SHOW_ARTIFACTS = text("""
    UPDATE jobs j SET artifacts = CAST(CAST(:artifacts AS text) AS json) WHERE j.id = :job_id
""")
LET_GO_OTHER_ARTIFACTS = text("""
    UPDATE artifacts a SET batch_id = NULL, job_id = NULL, expires_at = clock_timestamp()
    WHERE a.job_id = :job_id AND a.id <> ALL(CAST(:ids AS uuid[]))
""")

# Those of a batch that is being deleted.
LET_GO_ARTIFACTS = text("""
    UPDATE artifacts a SET batch_id = NULL, job_id = NULL, expires_at = clock_timestamp() WHERE a.batch_id = :batch_id
""")

# A job of the owner's, in as many rows as it has artifacts, or in one without.
ARTIFACTS = text("""
    SELECT j.batch_id, a.id, a.name, a.size, a.content_type, a.attempt, a.created_at
    FROM jobs j JOIN batches b ON b.id = j.batch_id
    LEFT JOIN artifacts a ON a.job_id = j.id
    WHERE j.id = :job_id AND b.owner = :owner ORDER BY a.id
""")

# Those that are nobody's, under their locks.
EXPIRED_ARTIFACTS = text("""
    SELECT a.id FROM artifacts a WHERE a.batch_id IS NULL AND a.expires_at < statement_timestamp()
    ORDER BY a.expires_at LIMIT :files FOR UPDATE SKIP LOCKED
""")
DELETE_ARTIFACTS = text("DELETE FROM artifacts a WHERE a.id = ANY(CAST(:ids AS uuid[]))")
