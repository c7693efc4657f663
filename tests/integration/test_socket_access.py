"""Who may open a WebSocket, and what they may subscribe to."""

import json
from collections.abc import Callable

from msgspec.structs import replace
from websockets.sync.client import connect

from services.api.app import create_app as create_api
from services.stream.app import create_app
from shared.auth import Claims, issue_ticket, issue_token
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.topics import topics
from tests.support.web import served
from tests.support.websockets import RawSocket, Reader
from tests.support.writer import Writer


def test_a_token_comes_in_the_first_message(address: str, writer: Writer, token: str) -> None:
    """By the library that others use."""
    with connect(address.replace("http", "ws", 1) + "/api/ws", proxy=None) as socket:
        socket.send(json.dumps({"type": "auth", "token": token}))
        socket.send(json.dumps({"type": "subscribe", "topic": f"batch:{writer.batch_id}"}))
        said = json.loads(socket.recv(10))
    assert said["type"] == "progress"
    assert said["id"]


def test_a_token_without_the_scope_is_refused(address: str, settings: Settings) -> None:
    with RawSocket(address) as socket:
        socket.say(type="auth", token=issue_token(settings, OWNER, scope="write report"))
        assert socket.hear()["code"] == "forbidden"
        assert socket.end() == 4403
    with RawSocket(address, issue_token(settings, OWNER, scope="write")) as socket:
        assert socket.status == 403


def test_whoever_says_it_in_the_handshake_is_answered_there(
    address: str, settings: Settings, writer: Writer, ticket: str
) -> None:
    expired = issue_ticket(settings, Claims(OWNER, None, 1_000_000_000), writer.batch_id)[0]
    cases: list[tuple[str | None, dict[str, str], int]] = [
        ("wrong", {}, 401),
        (None, {"ticket": "wrong"}, 401),
        (None, {"ticket": expired}, 401),
        (None, {"token": "wrong"}, 422),
        (None, {"ticket": ticket, "surprise": "b"}, 422),
    ]
    for token, query, status in cases:
        with RawSocket(address, token, query=query) as socket:
            assert socket.status == status
            assert socket.body()["status"] == status
            assert ("www-authenticate" in socket.headers) == (status == 401)


def test_a_ticket_opens_the_topics_of_its_batch(
    address: str, make_writer: Callable[..., Writer], writer: Writer, ticket: str
) -> None:
    other = make_writer(1)
    with RawSocket(address, query={"ticket": ticket}) as socket:
        reader = Reader(socket)
        reader.subscribe(*topics(writer))
        reader.catch_up()
        refused = {}
        for topic in (f"batch:{other.batch_id}", f"logs:{other.batch_id}", f"job:{other.jobs[0]}", "batches"):
            socket.say(type="subscribe", topic=topic)
            said = reader.until(lambda said: said["type"] == "error")[-1]
            refused[said["topic"].partition(":")[0]] = said["code"]
        assert refused == {"batch": "not_found", "logs": "not_found", "job": "not_found", "batches": "forbidden"}
        reader.to_version(writer.start(0), [topics(writer)[0]])


def test_what_is_not_there_or_somebody_elses_cannot_be_told_apart_and_the_connection_stays(
    address: str, make_writer: Callable[..., Writer], writer: Writer, token: str
) -> None:
    theirs = make_writer(1, owner="bert")
    nobodys = "01890a5d-ac96-774b-bcce-b302099a8057"
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        for kind in ("batch", "logs", "job"):
            for subject in (theirs.batch_id if kind != "job" else theirs.jobs[0], nobodys):
                socket.say(type="subscribe", topic=f"{kind}:{subject}")
                said = reader.next()
                assert said["topic"] == f"{kind}:{subject}"
                assert (said["code"], said["message"]) == ("not_found", "There is no such thing, or it is not yours")
        reader.subscribe(f"batch:{writer.batch_id}")
        reader.delta(f"batch:{writer.batch_id}")


def test_pages_of_other_sites_are_not_let_in(settings: Settings, token: str) -> None:
    settings = replace(settings, origins="https://app.example.org", public_url="https://headway.example.org")
    with served(create_app(settings)) as address:
        answers: dict[str | None, int] = {
            "https://evil.example.org": 403,
            "null": 403,
            "": 403,
            "https://app.example.org.evil.example.org": 403,
            "http://app.example.org": 403,
            "https://app.example.org": 101,
            "https://headway.example.org": 101,
            address: 101,
            None: 101,
        }
        for origin, status in answers.items():
            with RawSocket(address, token, headers={"Origin": origin}) as socket:
                assert socket.status == status, origin
                if status == 403:
                    assert socket.body()["type"] == "/problems/forbidden"


def test_the_api_service_has_no_websockets(settings: Settings, token: str) -> None:
    with served(create_api(settings)) as address, RawSocket(address, token) as socket:
        assert socket.status == 404
        assert socket.body()["type"] == "/problems/not_found"
