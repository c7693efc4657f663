"""Where a reader begins: after the event id that it brings along, or anew, and then why."""

from services.stream.history import History
from services.stream.keeper import Keeper
from services.stream.topic import Position
from shared.event_ids import Filters, batch_check, parse_event_id
from shared.events import ResetReason


async def starting_point(keeper: Keeper, history: History, filters: Filters, last_id: str) -> Position | ResetReason:
    """`last_id` may be empty. Raises NotFound and Unavailable."""
    topic = keeper.topic
    if not last_id:
        return Position()
    event_id = parse_event_id(last_id)
    if event_id is None or event_id.check != batch_check(topic.id):
        return "invalid_id"
    if event_id.version == 0:
        return Position()
    if event_id.epoch != topic.epoch or event_id.version > topic.version or topic.final:
        # the topic may be behind; and a reader that is told 204 never comes again
        await keeper.refresh()
    line_count = topic.line_count_at(event_id.version) if filters.logs else 0
    if line_count is None:
        line_count = await history.line_count(topic.id, event_id.version)
    if event_id.epoch != topic.epoch:
        return "epoch"
    if event_id.filters != filters:
        return "filters"
    if event_id.version > topic.version:
        return "ahead"
    return Position(event_id.version, line_count)
