"""The kinds of job, and what each takes as parameters."""

import msgspec
from litestar import get

from services.api.body import ApiRequest
from services.api.replies import KindInfo
from shared.kinds import KINDS
from shared.web.parameters import Page, Paging, decode_cursor, encode_cursor, read_query

_PLACE = "kinds"
_ALL = [
    KindInfo(kind.name, kind.title, msgspec.json.schema(kind.params), kind.max_attempts, kind.time_limit)
    for kind in sorted(KINDS.values(), key=lambda kind: kind.name)
]


@get("/kinds", sync_to_thread=False)
def kinds(request: ApiRequest) -> Page[KindInfo]:
    """By name."""
    query = read_query(request, Paging)
    after = "" if query.cursor is None else decode_cursor(_PLACE, query.cursor, str)
    rest = [info for info in _ALL if info.kind > after]
    shown = rest[: query.limit]
    return Page(list(shown), encode_cursor(_PLACE, shown[-1].kind) if len(rest) > len(shown) else None)
