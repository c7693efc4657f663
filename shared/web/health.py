"""`/health/live` (this process answers) and `/health/ready` (it can do its work), the state of each part included."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

import structlog
from litestar import Response, Router, get
from msgspec import Struct

PATIENCE = 2.0
"""Seconds after which a part that does not answer counts as away: probes do not wait long either."""

log = structlog.get_logger(__name__)


class Part(Struct, frozen=True):
    """Something that the process leans on. `check` raises when it is away; one `needed` makes the process not ready."""

    name: str
    check: Callable[[], Awaitable[object]]
    needed: bool = True


def health_routes(parts: Sequence[Part], *, draining: Callable[[], bool] = lambda: False) -> Router:
    """`{"status": "ready" | "not_ready" | "draining", <part>: "ok" | "away", …}`, 503 unless ready."""

    @get("/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @get("/ready")
    async def ready() -> Response[dict[str, str]]:
        answers = await asyncio.gather(*map(_answers, parts))
        states = {part.name: "ok" if answer else "away" for part, answer in zip(parts, answers, strict=True)}
        status = "ready"
        if not all(answer or not part.needed for part, answer in zip(parts, answers, strict=True)):
            status = "not_ready"
        if draining():
            status = "draining"
        return Response(
            {"status": status, **states},
            status_code=HTTPStatus.OK if status == "ready" else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    return Router("/health", route_handlers=[live, ready], response_headers={"Cache-Control": "no-store"})


async def _answers(part: Part) -> bool:
    try:
        await asyncio.wait_for(part.check(), PATIENCE)
    except Exception as error:  # noqa: BLE001  # whatever it is, the part is away
        log.info("a part is away", part=part.name, error=type(error).__name__)
        return False
    return True
