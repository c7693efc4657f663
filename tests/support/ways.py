"""The ways by which a stream's bytes reach a socket. What is promised holds for each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from services.stream.app import create_app
from shared.settings import Settings
from tests.support.plain_stream import create_plain
from tests.support.tls import server_context
from tests.support.web import served


@dataclass(frozen=True)
class Way:
    name: str
    create: Callable[[Settings], Any]
    server: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def hands_over(self) -> bool:
        return self is WAYS[0]

    @contextmanager
    def served(self, settings: Settings) -> Iterator[tuple[str, Any]]:
        """Where the stream service answers, and its application."""
        app = self.create(settings)
        with served(app, **self.server) as address:
            yield address, app


WAYS = (
    Way("handed over", create_app),
    Way("plain", create_plain),
    Way("TLS", create_app, {"ssl_context_factory": lambda *_: server_context()}),
)
