"""`GET /api/ws`: the handshake, and who is asking: by header, by ticket, or by the first message."""

import asyncio
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import parse_qs

from litestar import Request, WebSocket, get, websocket
from litestar.types import Receive

from services.stream.hub import Hub
from services.stream.lifetime import limits_of
from services.stream.messages import error_message, read_command
from services.stream.outlet import PlainOutlet
from services.stream.session import Close, Outlet, Reader, Session, error_code, sentence
from shared.auth import Claims, check_token, verify_ticket
from shared.errors import Forbidden, HeadwayError, Malformed, TooManyRequests, Unauthenticated, Unavailable
from shared.web.conversation import Auth, SocketQuery
from shared.web.denial import deny
from shared.web.identity import Connection, bearer
from shared.web.parameters import read_query
from shared.web.sockets import offered

AUTH_SECONDS = 5.0
"""For the first message, and for whoever knows the keys of tokens to answer."""

_CLOSE: dict[type[HeadwayError], int] = {
    Unauthenticated: Close.UNAUTHENTICATED,
    Forbidden: Close.FORBIDDEN,
    TooManyRequests: Close.TRY_LATER,
    Unavailable: Close.TRY_LATER,
}

AnySocket = WebSocket[Any, Any, Any]


@get("/api/ws")
async def no_upgrade(request: Request[Any, Any, Any]) -> None:
    """What a plain request gets; strangers as everywhere."""
    if await _reader(request) is None:
        raise Unauthenticated("expected the handshake of a WebSocket")
    raise Malformed("this address takes WebSocket connections only", headers={"Upgrade": "websocket"})


@websocket("/api/ws")
async def converse(socket: AnySocket) -> None:
    hub: Hub = socket.app.state.hub
    with ExitStack() as stranger:
        try:
            session = await _known(socket)
            if session is None:
                stranger.enter_context(hub.stranger(hub.addresses.of(socket.scope)))
        except HeadwayError as error:
            await deny(socket.scope, socket.send, error)
            return
        try:
            await socket.accept()
            ours = offered(socket.scope)
            outlet: Outlet = PlainOutlet(socket.send) if ours is None else ours
            if session is None:
                session = await _introduced(socket, outlet, stranger)
            if session is not None:
                outlet.on_writable = session.wake
                await session.converse(outlet, socket.receive)
        finally:
            if session is not None:
                hub.depart(session)


async def _known(socket: AnySocket) -> Session | None:
    """Whoever says at once who it is. Raises what a request may end in."""
    reader = await _reader(socket)
    return None if reader is None else await _admitted(socket, reader)


async def _reader(connection: Connection) -> Reader | None:
    """None: it says nothing of who it is. Raises Unauthenticated, Forbidden, Invalid and Unavailable."""
    reader = None
    ticket = parse_qs(connection.scope["query_string"].decode("latin-1")).get("ticket")
    if "authorization" in connection.headers:
        reader = _reading(await bearer(connection))
    elif ticket:
        claims = verify_ticket(connection.app.state.settings, ticket[0])
        reader = Reader(claims.owner, claims.expires, claims.batch_id)
    read_query(connection, SocketQuery)
    return reader


def _reading(claims: Claims) -> Reader:
    if not claims.may("read"):
        raise Forbidden("the token's scope does not include `read`")
    return Reader(claims.owner, claims.expires)


async def _introduced(socket: AnySocket, outlet: Outlet, stranger: ExitStack) -> Session | None:
    """Whoever says who it is in its first message, and is no stranger then. None: it did not, and that was the end."""
    hub: Hub = socket.app.state.hub
    try:
        try:
            async with asyncio.timeout(AUTH_SECONDS):
                reader = await _by_message(socket)
        except TimeoutError:
            raise Unauthenticated(f"no token came within {AUTH_SECONDS:g} seconds") from None
        if reader is None:
            return None
        stranger.close()  # it may be the last place of its address that it had, and now has
        return await _admitted(socket, reader)
    except HeadwayError as error:
        code = error_code(error, draining=hub.draining)
        outlet.write(error_message(code, sentence(error)))
        outlet.hang_up(Close.DRAINING if code == "draining" else _CLOSE.get(type(error), Close.INTERNAL), code)
        await _gone(socket.receive)
        return None


async def _by_message(socket: AnySocket) -> Reader | None:
    state = socket.app.state
    received = await socket.receive()
    if received["type"] != "websocket.receive":
        return None
    command = None
    with suppress(HeadwayError):
        command = read_command(received.get("text") or "")
    if not isinstance(command, Auth):
        raise Unauthenticated('expected {"type": "auth", "token": …} first')
    claims = await check_token(state.settings, state.token_keys, command.token)
    return _reading(claims)


async def _admitted(socket: AnySocket, reader: Reader) -> Session:
    state = socket.app.state
    hub: Hub = state.hub
    session = Session(hub, reader, limits_of(state.settings, reader, state.jitter()))
    await hub.admit(session, reader.owner, hub.addresses.of(socket.scope))
    return session


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] == "websocket.receive":
        pass
