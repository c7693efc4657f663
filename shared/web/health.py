"""`/health/live` (this process answers) and `/health/ready` (it can do its work), the state of each part included."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Literal

from litestar import Response, Router, get
from msgspec import Struct

from shared.outage import Outage

PATIENCE = 2.0
"""Seconds after which a part that does not answer counts as away: probes do not wait long either."""

State = Literal["ok", "away"]


class Part(Struct, frozen=True):
    """Something that the process leans on. `check` raises when it is away; one `needed` makes the process not ready.

    `told`: somebody else says so, whom `check` only asks.
    """

    name: Literal["postgresql", "redis"]
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


def health_routes(parts: Sequence[Part], *, draining: Callable[[], bool] = lambda: False) -> Router:
    """`parts` are those of Readiness. 503 unless ready."""
    outages = [None if part.told else Outage(part.name, "health") for part in parts]

    @get("/live")
    async def live() -> Liveness:
        return Liveness()

    @get("/ready")
    async def ready() -> Response[Readiness]:
        answers = await asyncio.gather(*map(_answers, parts, outages))
        states: dict[str, State] = {
            part.name: "ok" if answer else "away" for part, answer in zip(parts, answers, strict=True)
        }
        status: Literal["ready", "not_ready", "draining"] = "ready"
        if not all(answer or not part.needed for part, answer in zip(parts, answers, strict=True)):
            status = "not_ready"
        if draining():
            status = "draining"
        return Response(
            Readiness(status, **states),
            status_code=HTTPStatus.OK if status == "ready" else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    return Router("/health", route_handlers=[live, ready], response_headers={"Cache-Control": "no-store"})


async def _answers(part: Part, outage: Outage | None) -> bool:
    try:
        await _in_time(part.check())
    except Exception as error:  # noqa: BLE001  # whatever it is, the part is away
        if outage is not None:
            outage.begin(error)
        return False
    if outage is not None:
        outage.end()
    return True


async def _in_time(check: Awaitable[object]) -> None:
    """Raises TimeoutError after PATIENCE, also where what is cancelled then takes its time to end."""
    asking = asyncio.ensure_future(check)
    asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has looked at it
    try:
        await asyncio.wait([asking], timeout=PATIENCE)
        if not asking.done():
            raise TimeoutError
        asking.result()
    finally:
        asking.cancel()
