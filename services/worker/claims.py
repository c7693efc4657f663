"""This process's claims: jobs are reserved in one statement, and go back if nobody heard which they were."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row

from shared import queries
from shared.database import autocommitting
from shared.settings import Limit, Settings


class Claims:
    """Of the writer's thread. `limits`: of kinds that have some."""

    def __init__(self, settings: Settings, queue: str, limits: Mapping[str, Limit]) -> None:
        self._parameters = {
            "queue": queue,
            "lease": settings.lease,
            "owner_limit": settings.owner_concurrency,
            "kinds": list(limits),
            "kind_limits": [limit.concurrency for limit in limits.values()],
            "kind_rates": [limit.rate for limit in limits.values()],
        }
        self.unsure: list[UUID] = []
        """The tokens of claims whose outcome is unknown."""

    def claim(self, connection: Connection, jobs: int, ending: Sequence[UUID]) -> tuple[UUID, Sequence[Row[Any]]]:
        """Reserves up to `jobs` jobs: under which token, and which. `ending`: jobs whose end is about to be committed.

        If it fails, nothing is claimed, or goes back the next time.
        """
        token = uuid4()
        with autocommitting(connection), connection.begin():
            if self.unsure:
                self.release_unsure(connection)
            self.unsure.append(token)
            rows = connection.execute(
                queries.CLAIM, {"jobs": jobs, "token": token, "ending": ending, **self._parameters}
            ).all()
        self.unsure.clear()
        return token, rows

    def release_unsure(self, connection: Connection) -> None:
        """They are to be forgotten once this is committed."""
        connection.execute(queries.RELEASE_CLAIMS, {"tokens": self.unsure})
