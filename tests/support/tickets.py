"""Work tickets, as the api sends them."""

from shared.queue import make_broker, send_tickets
from shared.settings import Settings


def call(settings: Settings, tickets: int = 16) -> None:
    broker = make_broker(settings.tickets_url, settings.namespace, ("default",))
    send_tickets(broker, "default", tickets)
    broker.close()
