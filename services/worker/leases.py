"""This process's leases: renewed in time, and asked after: a job may have gone to another worker, or be cancelled."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection

from services.worker.run import Run
from shared import queries


class Leases:
    """Of the writer's thread. `lease` in seconds."""

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._next_renewal = 0.0
        self._all_renewed = False

    def look(self, connection: Connection, held: Sequence[Run], now: float) -> dict[UUID, bool]:
        """Renews them, if it is time. Those that are still held by these runs, and whether they are to end."""
        parameters = {"ids": [run.job.id for run in held], "tokens": [run.token for run in held]}
        renewed = None
        if now >= self._next_renewal:
            renewed = connection.execute(queries.RENEW, parameters | {"lease": self._lease}).rowcount
        mine = {row.id: row.cancel_requested for row in connection.execute(queries.HELD, parameters)}
        self._all_renewed = renewed is not None and renewed >= len(mine)
        return mine

    def committed(self, now: float) -> None:
        """What `look` did at `now` is certain. If some were locked, they are renewed at the next look."""
        if self._all_renewed:
            self._next_renewal = now + self._lease / 3
