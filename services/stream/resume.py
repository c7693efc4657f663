"""Where a reader begins: after the event id that it brings along, or anew, and then why."""

from services.stream.delivery import START, Position
from services.stream.keeper import Keeper
from services.stream.topic import Topic
from shared.event_ids import EventId, Filters, batch_check, parse_event_id
from shared.events import ResetReason


async def starting_point(keeper: Keeper, filters: Filters, last_id: str) -> Position | ResetReason:
    """`last_id` may be empty. Raises NotFound and Unavailable."""
    topic = keeper.topic
    if not last_id:
        return START
    event_id = parse_event_id(last_id)
    if event_id is None or event_id.check != batch_check(topic.id):
        return "invalid_id"
    if event_id.version == 0:
        return START
    if event_id.epoch != topic.epoch or event_id.version > topic.version or topic.final:
        # the topic may be behind; and a reader that is told 204 never comes again
        await keeper.refresh()
    if reason := _unknown(event_id, topic, filters):
        return reason
    line_count = topic.line_count_at(event_id.version) if filters.logs else 0
    source = "memory" if line_count is not None else "postgresql"
    if line_count is None:
        line_count = await keeper.line_counts.at(event_id.version)
        if reason := _unknown(event_id, topic, filters):  # since we asked
            return reason
    topic.audience.metrics.resumes[source] += 1
    return Position(event_id.version, line_count)


def _unknown(event_id: EventId, topic: Topic, filters: Filters) -> ResetReason | None:
    if event_id.epoch != topic.epoch:
        return "epoch"
    if event_id.filters != filters:
        return "filters"
    return "ahead" if event_id.version > topic.version else None
