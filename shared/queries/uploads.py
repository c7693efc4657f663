"""Files: uploads, and artifacts."""

from sqlalchemy import text

ADD_UPLOAD = text("""
    INSERT INTO uploads (id, owner, name, size, content_type, created_at, expires_at)
    VALUES (:id, :owner, :name, :size, :content_type, clock_timestamp(),
        clock_timestamp() + CAST(:ttl AS float8) * interval '1 second')
    RETURNING expires_at
""")

# A batch begins to use them: they no longer expire. Returns those that exist and are the owner's. Locked in one order:
# two batches made of the same uploads at the same time would otherwise stop each other. Of an expired one the file may
# be gone already.
USE_UPLOADS = text("""
    WITH mine AS (
        SELECT x.id FROM uploads x WHERE x.id = ANY(CAST(:ids AS uuid[])) AND x.owner = :owner
            AND coalesce(x.expires_at >= statement_timestamp(), true)
        ORDER BY x.id FOR NO KEY UPDATE
    )
    UPDATE uploads u SET expires_at = NULL FROM mine WHERE u.id = mine.id RETURNING u.id
""")

USE_UPLOADS_FOR = text("""
    INSERT INTO upload_uses (batch_id, upload_id) SELECT :batch_id, u.id FROM unnest(CAST(:ids AS uuid[])) AS u (id)
    ON CONFLICT DO NOTHING
""")

# Those that no batch names, and that were kept long enough, under their locks.
EXPIRED_UPLOADS = text("""
    SELECT u.id FROM uploads u WHERE u.expires_at < statement_timestamp()
    ORDER BY u.expires_at LIMIT :files FOR UPDATE SKIP LOCKED
""")
DELETE_UPLOADS = text("DELETE FROM uploads u WHERE u.id = ANY(CAST(:ids AS uuid[]))")
