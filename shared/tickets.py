"""What carries work tickets, whichever server that is."""

from abc import ABC, abstractmethod

from dramatiq.broker import Broker

ACTOR = "drain"
"""What a ticket makes a worker's thread do."""


class TicketBroker(ABC, Broker):
    """A broker as a carrier of hints: a ticket may be lost, and no call holds anybody up for long."""

    @abstractmethod
    def send(self, queue: str, tickets: int) -> bool:
        """False when the server is away. Raises nothing."""

    @abstractmethod
    def waiting(self, queue: str) -> int:
        """Tickets that no worker has fetched yet. Raises dramatiq.errors.BrokerConnectionError."""

    @property
    def trouble(self) -> BaseException | None:
        """Why the server counts as away, where that is known without asking it."""
        return None

    @abstractmethod
    def there(self) -> bool:
        """Whether tickets come and go: asked again and again by the stand-by, in whose name it is logged."""
