"""Batches whose time has come: the one that they waited for has ended, or they had to have ended by now."""

from sqlalchemy import text

# Batches whose predecessor has ended, or is there no more; what is read of these is looked at
# again under the batch's own lock, this only says where to look. One that is being cancelled has been settled, and what
# is reported of it may take long. Ordered as the index is, and written so that each lane costs one look at the other
# batch, whatever the statistics say.
SUCCESSORS = text("""
    SELECT l.batch_id FROM lanes l
    WHERE l.after_batch IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM batches p WHERE p.id = l.after_batch AND p.finished_at IS NULL OFFSET 0
    ) AND NOT EXISTS (
        SELECT 1 FROM batches b WHERE b.id = l.batch_id AND b.cancel_requested OFFSET 0
    )
    ORDER BY l.after_batch LIMIT :batches
""")

# Batches that are late and have not been asked to end yet.
EXPIRING = text("""
    SELECT l.batch_id FROM lanes l
    WHERE l.expires_at <= statement_timestamp() AND NOT EXISTS (
        SELECT 1 FROM batches b WHERE b.id = l.batch_id AND b.cancel_requested OFFSET 0
    )
    ORDER BY l.expires_at LIMIT :batches
""")
