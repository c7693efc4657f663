"""Whether a client is still there: a closed connection shows in `receive`, not as an error of `send`."""

from litestar.types import Receive


async def departed(receive: Receive) -> None:
    """Returns when the client has gone, or has been answered. Whatever it still sends is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass
