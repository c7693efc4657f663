"""What is expected of the batches that are read: why they wait, and when they will be done."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection

from shared.events import Batch
from shared.jobs import FINAL_BATCH
from shared.outlook import Premises
from shared.outlooks import BATCHES, Found, ask


def expected(connection: Connection, premises: Premises, batches: Sequence[Batch]) -> list[Batch]:
    """The same batches, each with what is expected of it."""
    ids = [UUID(batch.batch_id) for batch in batches if batch.status not in FINAL_BATCH]
    found: dict[UUID, Found] = {}
    for first in range(0, len(ids), BATCHES):
        found |= ask(connection, premises, ids[first : first + BATCHES])
    return [_shown(batch, found.get(UUID(batch.batch_id))) for batch in batches]


def _shown(batch: Batch, found: Found | None) -> Batch:
    return batch if found is None else found.shown(batch)
