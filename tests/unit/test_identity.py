"""Who may read a batch: by token or by ticket, and a ticket opens its own batch only."""

import time
from types import SimpleNamespace
from uuid import uuid4

import jwt
import pytest
from litestar.connection import ASGIConnection
from msgspec.structs import replace

from shared.auth import NOT_BEFORE_LEEWAY, SCOPES, TICKET_TTL, Claims, issue_ticket, issue_token, verify_token
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
SOON = time.time() + 3600


def connection(query: str = "", authorization: str | None = None, settings: Settings = SETTINGS) -> Connection:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    app = SimpleNamespace(state=SimpleNamespace(settings=settings, token_keys=None))
    scope = {"type": "http", "query_string": query.encode(), "headers": headers, "litestar_app": app}
    return ASGIConnection(scope)  # type: ignore[arg-type]


def token(scope: str | None = None, owner: str = "anna") -> str:
    return f"Bearer {issue_token(SETTINGS, owner, scope=scope)}"


def ticket(batch: object = BATCH, expires: float = SOON) -> str:
    return f"ticket={issue_ticket(SETTINGS, Claims('anna', None, expires), batch)[0]}"  # type: ignore[arg-type]


async def test_a_token_reads_until_it_expires() -> None:
    who = await reader(connection(authorization=token("read report")), BATCH)
    assert (who.owner, who.by_ticket) == ("anna", False)
    assert who.expires == pytest.approx(time.time() + 3600, abs=5)


async def test_a_ticket_reads_until_it_expires() -> None:
    who = await reader(connection(f"jobs=all&{ticket()}"), BATCH)
    assert (who.owner, who.by_ticket) == ("anna", True)
    assert who.expires == int(SOON)
    later = await reader(connection(ticket(expires=SOON + 10 * TICKET_TTL)), BATCH)
    assert later.expires <= time.time() + TICKET_TTL


async def test_a_token_counts_before_a_ticket() -> None:
    who = await reader(connection(ticket(), token(owner="bert")), BATCH)
    assert who.owner == "bert"


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
async def test_everybody_else_is_refused(query: str, authorization: str | None, error: type[HeadwayError]) -> None:
    with pytest.raises(error):
        await reader(connection(query, authorization), BATCH)


async def test_both_ticket_keys_open_while_one_follows_the_other() -> None:
    """First the new key is only known, then it signs, and once the last old ticket has expired the old one goes."""
    old, new = SETTINGS.ticket_key, "another ticket key, of 32 bytes or more"
    stages = [
        SETTINGS,
        replace(SETTINGS, ticket_key_old=new),
        replace(SETTINGS, ticket_key=new, ticket_key_old=old),
        replace(SETTINGS, ticket_key=new),
    ]
    given = [f"ticket={issue_ticket(stage, Claims('anna', None, SOON), BATCH)[0]}" for stage in stages]

    async def opens(stage: Settings, ticket: str) -> bool:
        try:
            return (await reader(connection(ticket, settings=stage), BATCH)).owner == "anna"
        except Unauthenticated:
            return False

    for number, stage in enumerate(stages):
        near = given[max(0, number - 1) : number + 2]
        assert [await opens(stage, ticket) for ticket in near] == [True] * len(near), (
            "each takes its neighbours' tickets"
        )
    assert not await opens(stages[3], given[0])
    assert not await opens(stages[0], given[3])


async def test_a_key_opens_its_own_kind_only() -> None:
    """A token is no ticket and a ticket no token, even if somebody has given both the same key."""
    same = replace(SETTINGS, ticket_key=SETTINGS.secret)
    text, _ = issue_ticket(same, Claims("anna", None, SOON), BATCH)
    for query, authorization in ((f"ticket={issue_token(same, 'anna')}", None), ("", f"Bearer {text}")):
        with pytest.raises(Unauthenticated):
            await reader(connection(query, authorization, same), BATCH)


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        (None, "read write report"),  # to everything of one's own; what is nobody's has to be allowed expressly
        ("", ""),
        (" ", ""),
        ("read", "read"),
        ("READ", ""),
        ("reader,read", ""),
        ("openid read profile", "read"),
        ("write report", "write report"),
        ("admin", "read write report admin"),
        ("read\twrite", "read write"),
    ],
)
def test_scopes(scope: str | None, may: str) -> None:
    claims = verify_token(SETTINGS, issue_token(SETTINGS, "anna", scope=scope))
    assert {word for word in SCOPES if claims.may(word)} == set(may.split())


async def test_a_refusal_names_the_scope() -> None:
    with pytest.raises(Forbidden, match="`read`"):
        await reader(connection(authorization=token("write report openid")), BATCH)


def test_a_token_begins_and_ends_when_it_says() -> None:
    now = time.time()

    def issued(**claims: object) -> str:
        given = {"sub": "anna", "iss": "headway", "aud": "headway", "exp": now + 60} | claims
        return jwt.encode(given, SETTINGS.secret, algorithm="HS256")

    for good in (issued(), issued(nbf=now), issued(nbf=now + NOT_BEFORE_LEEWAY - 5), issued(iat=now + 3600)):
        assert verify_token(SETTINGS, good).owner == "anna"
    for bad in (issued(nbf=now + NOT_BEFORE_LEEWAY + 5), issued(exp=now - 1), issued(nbf="x"), issued(exp=10**400)):
        with pytest.raises(Unauthenticated):
            verify_token(SETTINGS, bad)
