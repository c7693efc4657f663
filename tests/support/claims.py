"""Claiming as the ledger does."""

from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from shared import queries


def claim(connection: sa.Connection, jobs: int, token: UUID | None = None, **options: Any) -> list[sa.Row[Any]]:
    """What was reserved. `options`: parameters of CLAIM that are not to be as in an installation without limits."""
    parameters: dict[str, Any] = {
        "queue": "default",
        "jobs": jobs,
        "token": token or uuid4(),
        "lease": 60,
        "ending": [],
        "owner_limit": None,
        "kinds": [],
        "kind_limits": [],
        "kind_rates": [],
    }
    return list(connection.execute(queries.CLAIM, parameters | options))
