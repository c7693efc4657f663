"""Who may read a batch: by token or by ticket, and a ticket opens its own batch only."""

import time
from uuid import uuid4

import pytest
from litestar.connection import ASGIConnection

from shared.auth import TICKET_TTL, Claims, issue_ticket, issue_token
from shared.errors import Forbidden, HeadwayError, NotFound, Unauthenticated
from shared.settings import Settings
from shared.web.identity import Connection, reader

SETTINGS = Settings(
    database_url="postgresql://nowhere/x",
    redis_url="redis://nowhere/0",
    secret="a secret for tests, of 32 bytes or more",  # noqa: S106  # it protects nothing
    ticket_key="a ticket key for tests, of 32 bytes or more",
)
BATCH = uuid4()
SOON = time.time() + 60


def connection(query: str = "", authorization: str | None = None) -> Connection:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    return ASGIConnection({"type": "http", "query_string": query.encode(), "headers": headers})  # type: ignore[arg-type]


def token(scope: str | None = None, owner: str = "anna") -> str:
    return f"Bearer {issue_token(SETTINGS, owner, scope=scope)}"


def ticket(batch: object = BATCH, expires: float = SOON) -> str:
    return f"ticket={issue_ticket(SETTINGS, Claims('anna', None, expires), batch)[0]}"  # type: ignore[arg-type]


def test_a_token_reads_until_it_expires() -> None:
    who = reader(SETTINGS, connection(authorization=token("read report")), BATCH)
    assert (who.owner, who.by_ticket) == ("anna", False)
    assert who.expires == pytest.approx(time.time() + 3600, abs=5)


def test_a_ticket_reads_until_it_expires() -> None:
    who = reader(SETTINGS, connection(f"jobs=all&{ticket()}"), BATCH)
    assert (who.owner, who.by_ticket) == ("anna", True)
    assert who.expires == int(SOON)
    later = reader(SETTINGS, connection(ticket(expires=SOON + 10 * TICKET_TTL)), BATCH)
    assert later.expires <= time.time() + TICKET_TTL


def test_a_token_counts_before_a_ticket() -> None:
    assert reader(SETTINGS, connection(ticket(), token(owner="bert")), BATCH).owner == "bert"


@pytest.mark.parametrize(
    ("query", "authorization", "error"),
    [
        ("", None, Unauthenticated),
        ("ticket=", None, Unauthenticated),
        ("ticket=x.y.z", None, Unauthenticated),
        (ticket(expires=1), None, Unauthenticated),
        (ticket(uuid4()), None, NotFound),
        (ticket(), "Bearer x", Unauthenticated),
        (f"ticket={token().removeprefix('Bearer ')}", None, Unauthenticated),
        ("", f"Bearer {ticket().removeprefix('ticket=')}", Unauthenticated),
        ("", token("write"), Forbidden),
        ("", token("report"), Forbidden),
        ("", token(""), Forbidden),
    ],
    ids=range(11),
)
def test_everybody_else_is_refused(query: str, authorization: str | None, error: type[HeadwayError]) -> None:
    with pytest.raises(error):
        reader(SETTINGS, connection(query, authorization), BATCH)
