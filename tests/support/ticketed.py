"""Addresses that a ticket opens, and that hold one therefore: no log may have them whole."""

import re

from services.api.openapi import OPERATIONS

ID = "0199f2a0-0000-7000-8000-000000000000"


def opened_by_tickets(**ids: object) -> list[str]:
    """Of all services, as they are documented, which other tests compare with the code. `ids` by their names there."""
    templates = dict.fromkeys(operation.path for operation in OPERATIONS if operation.by_ticket)
    assert len(templates) > 5
    return [re.sub(r"\{(\w+)\}", lambda found: str(ids.get(found[1], ID)), template) for template in templates]
