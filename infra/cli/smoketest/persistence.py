"""Coming back to a Headway of which parts are killed or replaced meanwhile."""

import time
from http import HTTPStatus
from typing import Any

import httpx

from infra.cli.api import Api

_AWAY = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
_PATIENCE = 20.0
"""Seconds for which one request is tried again."""
_PAUSE = 0.5
"""Seconds between two tries."""


class Persistent(httpx.Client):
    """Asks again where nobody answers, or a gateway in nobody's place, and asking twice makes no difference."""

    came_back = 0
    """How often something had to be asked again, or a stream to be taken up again."""

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        until = time.monotonic() + _PATIENCE
        while True:
            last = time.monotonic() > until
            try:
                response = super().send(request, **options)
            except httpx.TransportError as error:
                if last or not (_may_be_repeated(request) or isinstance(error, httpx.ConnectError)):
                    raise
            else:
                if last or response.status_code not in _AWAY or not _may_be_repeated(request):
                    return response
                response.close()
            self.came_back += 1
            time.sleep(_PAUSE)


def persistent(api: Api) -> Persistent | None:
    """None: whatever breaks is a failure."""
    return api.client if isinstance(api.client, Persistent) else None


def _may_be_repeated(request: httpx.Request) -> bool:
    return request.method == "GET" or "Idempotency-Key" in request.headers
