"""Housekeeping: what was kept long enough goes: finished batches, unused uploads, keys of creations, what is lost.

In a thread of its own: the sweeper has leases to look at, however long a deletion takes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, TextClause

from services.worker.loop import Loop
from shared import queries
from shared.channels import Publisher
from shared.commit import commit
from shared.creation import IDEMPOTENCY_TTL
from shared.deletion import delete_batch
from shared.errors import Unavailable
from shared.files import Files
from shared.outage import Outage
from shared.settings import Settings

_PERIOD = 60.0
"""Seconds between two looks for what was kept long enough."""

_PAUSE = 1.0
"""Seconds between two rounds while there is more to do."""

_ROUND = 1.0
"""Seconds after which a round deletes no further batch: others need the disk as well."""

_MANY = 100
"""Uploads, and artifacts, in one round."""

_TIDYING = 3600.0
"""Seconds between two looks for files that were left unfinished."""

_TURNS = 1000
"""Turns in one round, of owners who have nothing unfinished any more."""

_FORGOTTEN = 4
"""Leases after which a worker that is not heard of is no longer shown as lost."""

_UNINSTALLED = 24 * 3600.0
"""Seconds after which a listener that no worker has is forgotten, with all that it was still to be told."""

_LOCK = 7_203_552
"""Of every transaction here: one process deletes at a time, however many there are."""

log = structlog.get_logger(__name__)


class Housekeeping:
    """Each batch goes in a transaction of its own, and no transaction waits for another."""

    def __init__(self, engine: Engine, publisher: Publisher, settings: Settings, files: Files) -> None:
        self._engine = engine
        self._files = files
        self._next_tidying = time.monotonic() + _TIDYING
        self._publisher = publisher
        self._settings = settings
        postgresql = Outage("postgresql", "housekeeping")
        self._loop = Loop("housekeeping", self._look, _PERIOD, first=_PAUSE, postgresql=postgresql)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Returns at once; the round that is under way is finished."""
        self._loop.stop()

    def join(self, timeout: float) -> bool:
        """Whether it has ended."""
        return self._loop.join(timeout)

    def _look(self) -> float:
        return _PAUSE if self.round() else _PERIOD

    def round(self) -> bool:
        """Whether there is probably more to do."""
        until = time.monotonic() + _ROUND
        batches = True
        while batches and time.monotonic() < until:
            batches = self._delete_batch()
        files = self._delete_files("upload", queries.EXPIRED_UPLOADS, queries.DELETE_UPLOADS)
        files |= self._delete_files("artifact", queries.EXPIRED_ARTIFACTS, queries.DELETE_ARTIFACTS)
        self._tidy()
        with self._turn() as connection:
            if connection is not None:
                connection.execute(queries.EXPIRE_KEYS, {"ttl": IDEMPOTENCY_TTL})
                connection.execute(queries.FORGET_WORKERS, {"silence": _FORGOTTEN * self._settings.lease})
                connection.execute(queries.FORGET_TURNS, {"rows": _TURNS})  # last: claims may wait for these rows
                connection.commit()
        self._forget_listeners()
        return batches or files

    def _forget_listeners(self) -> None:
        """Those of packages that are no longer installed anywhere, before their outbox fills the disk."""
        with self._turn() as connection:
            if connection is None:
                return
            gone = connection.execute(queries.FORGET_LISTENERS, {"silence": _UNINSTALLED}).scalars().all()
            for name in gone:
                connection.execute(queries.FORGET_NEWS, {"listener": name})
            connection.commit()
        for name in gone:
            log.warning("a listener that no worker has had for a day is forgotten", listener=name)

    @contextmanager
    def _turn(self) -> Iterator[Connection | None]:
        """A transaction to be committed; none while another process is at it."""
        with self._engine.connect() as connection:
            free = connection.execute(queries.TRY_LOCK, {"lock": _LOCK}).scalar_one()
            yield connection if free else None

    def _delete_batch(self) -> bool:
        """Whether there was one to delete."""
        settings = self._settings
        with self._turn() as connection:
            if connection is None:
                return False
            # under its lock: nobody can have it run again meanwhile
            batch_id = connection.execute(queries.OUTLIVED, {"retention": settings.retention}).scalar_one_or_none()
            if batch_id is None:
                return False
            frame = delete_batch(connection, batch_id, upload_ttl=settings.upload_ttl)
            commit(connection, self._publisher, batch_id, frame)
        log.info("batch deleted after its time", batch=str(batch_id))
        return True

    def _delete_files(self, what: str, expired: TextClause, delete: TextClause) -> bool:
        """Files first, and the rows of those that are gone: what is killed or fails in between is done again, and
        until then nobody can name an expired one. Whether there are probably more.
        """
        until = time.monotonic() + _ROUND
        with self._turn() as connection:
            if connection is None:
                return False
            file_ids = connection.execute(expired, {"files": _MANY}).scalars().all()
            connection.commit()
        gone: list[UUID] = []
        away = False
        for file_id in file_ids:  # in no transaction: a store may take its time
            if away or time.monotonic() > until:
                break
            try:
                self._files.remove(file_id)
            except Unavailable:  # which is said
                away = True
            except OSError as error:
                reason = error.strerror
                log.warning("a file cannot be removed, trying again", kind=what, id=str(file_id), error=reason)
            else:
                gone.append(file_id)
        if gone:
            with self._engine.begin() as connection:
                connection.execute(delete, {"ids": gone})
        return bool(gone) and not away and (len(gone) == _MANY or time.monotonic() > until)

    def _tidy(self) -> None:
        if time.monotonic() < self._next_tidying:
            return
        self._next_tidying = time.monotonic() + _TIDYING
        try:
            self._files.tidy()
        except Unavailable:
            pass  # it is said
        except OSError as error:
            log.warning("files that were left unfinished cannot be removed", error=error.strerror)
