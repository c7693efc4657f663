"""Housekeeping: what was kept long enough goes: finished batches, unused uploads, keys of creations."""

import structlog
from sqlalchemy import Engine

from shared import queries
from shared.changes import NoSuchBatch, commit
from shared.channels import Publisher
from shared.creation import IDEMPOTENCY_TTL
from shared.deletion import Unfinished, delete_batch
from shared.settings import Settings
from shared.uploads import upload_path

_FEW = 10
"""Batches deleted in one round: each may have thousands of jobs, and the sweeper has leases to look at meanwhile."""

_MANY = 100
"""Uploads in one round."""

log = structlog.get_logger(__name__)


class Housekeeping:
    """Used by one sweeper at a time. Each batch goes in a transaction of its own."""

    def __init__(self, engine: Engine, publisher: Publisher, settings: Settings) -> None:
        self._engine = engine
        self._publisher = publisher
        self._settings = settings

    def round(self) -> bool:
        """Whether there is probably more to do."""
        batches, uploads = self._delete_batches(), self._delete_uploads()
        with self._engine.begin() as connection:
            connection.execute(queries.EXPIRE_KEYS, {"ttl": IDEMPOTENCY_TTL})
        return batches == _FEW or uploads == _MANY

    def _delete_batches(self) -> int:
        settings = self._settings
        with self._engine.connect() as connection:
            parameters = {"retention": settings.retention, "batches": _FEW}
            batch_ids = connection.execute(queries.OUTLIVED, parameters).scalars().all()
        for batch_id in batch_ids:
            try:
                with self._engine.connect() as connection:
                    frame = delete_batch(connection, batch_id, upload_ttl=settings.upload_ttl)
                    commit(connection, self._publisher, batch_id, frame)
            except (NoSuchBatch, Unfinished):  # deleted or reopened meanwhile
                continue
            log.info("batch deleted after its time", batch=str(batch_id))
        return len(batch_ids)

    def _delete_uploads(self) -> int:
        """Rows first: a file without a row is found by nobody, a row without its file would be."""
        with self._engine.begin() as connection:
            upload_ids = connection.execute(queries.EXPIRE_UPLOADS, {"uploads": _MANY}).scalars().all()
        for upload_id in upload_ids:
            upload_path(self._settings.uploads, upload_id).unlink(missing_ok=True)
        return len(upload_ids)
