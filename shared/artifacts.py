"""Artifacts of a job: files that its handler gave become the job's, as a part of a change of its batch."""

from collections.abc import Iterable
from uuid import UUID

import msgspec
from sqlalchemy import Connection

from shared import queries
from shared.events import Artifact, encode

MOST_ARTIFACTS = 100
"""Of one job, those of all its attempts together: readers get the list with every change of it."""


def record_artifacts(
    connection: Connection, batch_id: UUID, job_id: UUID, token: UUID, artifacts: Iterable[Artifact]
) -> None:
    """Under the batch's lock: they become the job's, if it still runs under the token. What is too much, beyond
    MOST_ARTIFACTS, is left out from the oldest on.
    """
    row = connection.execute(queries.ARTIFACTS_OF_RUN, {"job_id": job_id, "token": token}).one_or_none()
    if row is None:
        return
    new = {artifact.id: artifact for artifact in artifacts}
    columns = {
        "ids": list(map(UUID, new)),
        "sizes": [artifact.size for artifact in new.values()],
        "content_types": [artifact.content_type for artifact in new.values()],
    }
    here = {"job_id": job_id, "batch_id": batch_id}
    there = {str(id_) for id_ in connection.execute(queries.RECORD_ARTIFACTS, here | columns).scalars()}
    before = msgspec.convert(row.artifacts or [], list[Artifact])
    by_name = {artifact.name: artifact for artifact in before}
    for artifact in new.values():
        if artifact.id in there:
            by_name.pop(artifact.name, None)  # the newest comes last
            by_name[artifact.name] = artifact
    kept = list(by_name.values())[-MOST_ARTIFACTS:]
    connection.execute(queries.SHOW_ARTIFACTS, {"job_id": job_id, "artifacts": encode(kept).decode()})
    ids = [UUID(artifact.id) for artifact in kept]
    connection.execute(queries.LET_GO_OTHER_ARTIFACTS, {"job_id": job_id, "ids": ids})
