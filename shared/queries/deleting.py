"""Deleting batches."""

from sqlalchemy import text

# A finished batch that was kept long enough, under its lock: an older answer might be of one that was retried since.
OUTLIVED = text("""
    SELECT b.id FROM batches b
    WHERE b.finished_at < statement_timestamp() - CAST(:retention AS float8) * interval '1 second'
    ORDER BY b.finished_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
""")

# Locked in one order and before it is asked who else uses them: a new batch that names one has it locked as well.
LOCK_UPLOADS_OF = text("""
    SELECT u.id FROM uploads u WHERE u.id IN (SELECT x.upload_id FROM upload_uses x WHERE x.batch_id = :batch_id)
    ORDER BY u.id FOR NO KEY UPDATE
""")

# Those that only this batch used are as good as new: they expire unless they are named again.
LET_GO_UPLOADS = text("""
    UPDATE uploads u SET expires_at = clock_timestamp() + CAST(:ttl AS float8) * interval '1 second'
    WHERE u.id IN (SELECT x.upload_id FROM upload_uses x WHERE x.batch_id = :batch_id)
        AND NOT EXISTS (SELECT 1 FROM upload_uses o WHERE o.upload_id = u.id AND o.batch_id <> :batch_id)
""")

# What hangs on a batch, in bulk: one by one, as the foreign keys would have it, takes several times as long.
DELETE_LINES = text("DELETE FROM log_lines l WHERE l.batch_id = :batch_id")
DELETE_TRANSITIONS = text("DELETE FROM transitions t WHERE t.batch_id = :batch_id")
DELETE_JOBS = text("DELETE FROM jobs j WHERE j.batch_id = :batch_id")
DELETE_BATCH = text("DELETE FROM batches b WHERE b.id = :batch_id")
