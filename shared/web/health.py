"""`/health/live` (this process answers) and `/health/ready` (it can do its work), the state of each part included."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Literal

from litestar import Response, Router, get
from msgspec import UNSET, Struct, UnsetType

from shared.outage import Outage
from shared.schema import is_behind

PATIENCE = 2.0
"""Seconds after which a part that does not answer counts as away: probes do not wait long either."""

State = Literal["ok", "away"]


class Part(Struct, frozen=True):
    """Something that the process leans on. `check` raises when it is away; one `needed` makes the process not ready.

    `told`: somebody else says so, whom `check` only asks. PostgreSQL's `check` tells the revision of its schema.
    """

    name: Literal["postgresql", "redis", "rabbitmq"]
    check: Callable[[], Awaitable[object]]
    needed: bool = True
    told: bool = False


class Liveness(Struct, frozen=True):
    status: Literal["live"] = "live"


class Readiness(Struct, frozen=True):
    """What each part is, beside what follows from it."""

    status: Literal["ready", "not_ready", "draining"]
    postgresql: State
    redis: State
    rabbitmq: State | UnsetType = UNSET
    """Left out unless work tickets go by it."""
    schema: Literal["ok", "behind"] | UnsetType = UNSET
    """`behind`: this version needs a migration that the database has not had. Left out while PostgreSQL is away."""


def health_routes(parts: Sequence[Part], *, draining: Callable[[], bool] = lambda: False) -> Router:
    """`parts` are those of Readiness. 503 unless ready."""
    outages = [None if part.told else Outage(part.name, "health") for part in parts]

    @get("/live")
    async def live() -> Liveness:
        return Liveness()

    @get("/ready")
    async def ready() -> Response[Readiness]:
        found = await asyncio.gather(*map(_answer, parts, outages))
        answers = {part.name: answer for part, answer in zip(parts, found, strict=True)}
        states: dict[str, State] = {
            name: "away" if isinstance(answer, _Away) else "ok" for name, answer in answers.items()
        }
        schema: Literal["ok", "behind"] | UnsetType = UNSET
        if states["postgresql"] == "ok":
            schema = "behind" if is_behind(answers["postgresql"]) else "ok"
        status: Literal["ready", "not_ready", "draining"] = "ready"
        if schema == "behind" or any(part.needed and states[part.name] == "away" for part in parts):
            status = "not_ready"
        if draining():
            status = "draining"
        return Response(
            Readiness(status, **states, schema=schema),
            status_code=HTTPStatus.OK if status == "ready" else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    return Router("/health", route_handlers=[live, ready], response_headers={"Cache-Control": "no-store"})


class _Away(Struct, frozen=True):
    """Instead of an answer."""


async def _answer(part: Part, outage: Outage | None) -> Any:
    try:
        answer = await _in_time(part.check())
    except Exception as error:  # noqa: BLE001  # whatever it is, the part is away
        if outage is not None:
            outage.begin(error)
        return _Away()
    if outage is not None:
        outage.end()
    return answer


async def _in_time(check: Awaitable[object]) -> object:
    """Raises TimeoutError after PATIENCE, also where what is cancelled then takes its time to end."""
    asking = asyncio.ensure_future(check)
    asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has looked at it
    try:
        await asyncio.wait([asking], timeout=PATIENCE)
        if not asking.done():
            raise TimeoutError
        return asking.result()
    finally:
        asking.cancel()
