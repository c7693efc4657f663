"""Addresses that are handed to clients: from the root of this server, or absolute where the public one is known."""

from uuid import UUID

from shared.settings import Settings


def batch_address(settings: Settings, batch_id: UUID) -> str:
    return f"{settings.public_url.rstrip('/')}/api/batches/{batch_id}"


def stream_address(settings: Settings, batch_id: UUID, ticket: str) -> str:
    """For an EventSource, which cannot send headers."""
    return f"{batch_address(settings, batch_id)}/stream?ticket={ticket}"


def web_address(settings: Settings, batch_id: UUID, ticket: str) -> str:
    """The live page. A fragment is never sent to a server, so the ticket is in no server's log."""
    return f"{settings.public_url.rstrip('/')}/batches/{batch_id}#ticket={ticket}"
