"""How long jobs of a kind took: read when a batch begins, written when one has ended."""

from sqlalchemy import text

KIND_PACE = text("SELECT p.pace FROM paces p WHERE p.kind = :kind")

# The same for whoever is about to write it; no row while somebody else is. It waits for nobody: what one batch more
# would have taught is not worth a wait. (The lock is named by two numbers, those that others use by one.)
PACE_TO_MOVE = text("""
    SELECT (SELECT p.pace FROM paces p WHERE p.kind = :kind) AS pace
    WHERE pg_try_advisory_xact_lock(4011, hashtext(:kind))
""")

MOVE_PACE = text("""
    INSERT INTO paces (kind, pace) VALUES (:kind, CAST(:pace AS jsonb))
    ON CONFLICT (kind) DO UPDATE SET pace = excluded.pace
""")
