"""What the topics of a writer's batch tell over a WebSocket, beside what is so."""

from typing import Any

from tests.support.sse import JSON
from tests.support.websockets import Reader
from tests.support.writer import Writer


def topics(writer: Writer) -> list[str]:
    """Of the batch, of its log, and of its first job."""
    return [f"batch:{writer.batch_id}", f"logs:{writer.batch_id}", f"job:{writer.jobs[0]}"]


def truth(writer: Writer) -> dict[str, tuple[JSON, JSON]]:
    """The jobs and lines that somebody has who has heard all of a topic."""
    state = writer.state()
    batch, logs, job = topics(writer)
    mine = str(writer.jobs[0])
    return {
        batch: (state["jobs"], {}),
        logs: ({}, state["lines"]),
        job: ({mine: state["jobs"][mine]}, {key: line for key, line in state["lines"].items() if key[0] == mine}),
    }


def known(reader: Reader) -> dict[str, tuple[JSON, Any]]:
    """What the reader has, in the same form."""
    return {topic: (record.jobs, record.lines) for topic, record in reader.records.items()}


def completes(reader: Reader, topic: str) -> list[JSON]:
    return [said for said in reader.heard if said["topic"] == topic and said["type"] == "complete"]
