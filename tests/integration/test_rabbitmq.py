"""Tickets by a real RabbitMQ: what gets through, what is bounded, and what those notice who send and fetch."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import dramatiq
import pytest
from structlog.testing import capture_logs

from infra.embedded.ports import HOST
from shared.channels import broker_namespace
from shared.queue import make_broker, send_tickets, waiting_tickets
from shared.tickets import ACTOR, TicketBroker
from tests.support.batches import wait_for
from tests.support.documents import OPERATIONS
from tests.support.ports import own_port
from tests.support.rabbitmq import PASSWORD, RabbitMQ, rabbitmq

PROMPT = 0.5
"""Seconds, of which sending takes none."""
THREADS = 3
FULL = 1_000
"""Tickets."""

Connect = Callable[..., TicketBroker]


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq") / "node") as server:
        yield server


@pytest.fixture
def connect(rabbit: RabbitMQ, namespace: str) -> Iterator[Connect]:
    """A broker with the queues `default` and `photos`, of this test; by another URL if one is given."""
    brokers = []

    def connect(url: str = "", place: str = namespace) -> TicketBroker:
        brokers.append(make_broker(url or rabbit.url(), place, ("default", "photos")))
        return brokers[-1]

    yield connect
    for broker in brokers:
        began = time.monotonic()
        broker.close()
        assert time.monotonic() - began < 5


@contextmanager
def fetching(broker: TicketBroker) -> Iterator[list[float]]:
    """When tickets of the queue `default` came, as a worker fetches them."""
    came: list[float] = []
    actor = dramatiq.actor(actor_name=ACTOR, queue_name="default", broker=broker)
    actor(lambda: came.append(time.monotonic()))
    worker = dramatiq.Worker(broker, queues={"default"}, worker_threads=THREADS, worker_timeout=50)
    worker.queue_prefetch = THREADS
    worker.start()
    try:
        yield came
    finally:
        worker.stop(timeout=5_000)


def test_tickets_of_each_queue_wait_until_they_are_fetched(connect: Connect) -> None:
    broker = connect()
    assert send_tickets(broker, "default", 3)
    assert send_tickets(broker, "photos", 1)
    assert send_tickets(broker, "", 5), "of a kind that no worker runs: nobody is told"
    wait_for(lambda: (waiting_tickets(broker, "default"), waiting_tickets(broker, "photos")) == (3, 1), "them to wait")
    with fetching(broker) as came:
        wait_for(lambda: len(came) == 3, "them to be fetched")
        assert send_tickets(broker, "default", 2)
        wait_for(lambda: len(came) == 5, "two more")
    assert (waiting_tickets(broker, "default"), waiting_tickets(broker, "photos")) == (0, 1)


def test_the_last_tickets_are_sent_before_the_end(connect: Connect) -> None:
    sender = connect()
    sender.send("default", 7)
    sender.close()
    assert waiting_tickets(connect(), "default") == 7


def test_a_thread_that_is_busy_gets_no_ticket(connect: Connect) -> None:
    broker, other = connect(), connect()
    dramatiq.actor(actor_name=ACTOR, queue_name="default", broker=broker)(lambda: time.sleep(2))
    worker = dramatiq.Worker(broker, queues={"default"}, worker_threads=THREADS, worker_timeout=50)
    worker.queue_prefetch = THREADS
    worker.start()
    send_tickets(other, "default", THREADS + 4)
    wait_for(lambda: waiting_tickets(other, "default") == 4, "one for each thread to be fetched")
    with fetching(other) as came:
        wait_for(lambda: len(came) == 4, "the others to go to somebody else")
    worker.stop(timeout=5_000)


def test_an_old_pile_is_bounded(connect: Connect) -> None:
    broker = connect()
    for _ in range(18):
        before = waiting_tickets(broker, "photos")
        send_tickets(broker, "photos", 60)
        wait_for(partial(more, broker, before), "them to wait")
    assert waiting_tickets(broker, "photos") == FULL


def test_other_ways_to_the_same_place(connect: Connect, rabbit: RabbitMQ) -> None:
    nobody = f"{HOST}:{own_port()}"
    ways = [rabbit.url(f"{nobody},{HOST}:{rabbit.port},{nobody}"), rabbit.url(path="/%2F"), rabbit.tls_url()]
    for number, url in enumerate(ways):
        broker = connect(url)
        broker.send("photos", 1)
        wait_for(partial(more, broker, number), url.partition(":")[0])
        assert broker.there()


def test_what_is_lost_for_a_moment_is_made_anew_and_nobody_need_know(
    connect: Connect, rabbit: RabbitMQ, namespace: str
) -> None:
    broker = connect()
    with capture_logs() as logs, fetching(broker) as came:
        comes(broker, came)
        for losses in (
            ("close_all_connections", "for a test"),
            ("delete_queue", f"{broker_namespace(namespace)}:default"),
        ):
            rabbit.control(*losses)
            comes(broker, came)
            assert broker.there()
    assert logs == []


def test_a_queue_that_was_made_otherwise_is_used(connect: Connect, rabbit: RabbitMQ, namespace: str) -> None:
    other = f"other{namespace}"
    rabbit.control("set_policy", "ours", f"^{other}", '{"max-length": 5}', "--apply-to", "queues")
    name = f"{broker_namespace(other)}:default"
    rabbit.control(
        "eval",
        f'rabbit_amqqueue:declare(rabbit_misc:r(<<"/">>, queue, <<"{name}">>), true, false, '
        '[{<<"x-max-length">>, long, 7}], none, <<"somebody">>).',
    )
    broker = connect(place=other)
    broker.send("default", 20)
    wait_for(lambda: waiting_tickets(broker, "default") == 5, "the smaller of both bounds")
    with fetching(broker) as came:
        comes(broker, came)


def test_the_documented_permissions_are_enough(connect: Connect, rabbit: RabbitMQ, namespace: str) -> None:
    found = re.search(r"set_permissions -p VHOST USER '(.+)' '(.+)' '(.+)'", OPERATIONS.section("RabbitMQ"))
    assert found is not None
    rabbit.control("add_user", "limited", "enough")
    ours = [pattern.replace("headway:", f"{namespace}headway:") for pattern in found.groups()]
    rabbit.control("set_permissions", "-p", "/", "limited", *ours)
    broker = connect(rabbit.url(user="limited", password="enough"))  # noqa: S106  # it protects nothing
    with fetching(broker) as came:
        comes(broker, came)
        assert broker.there()


@pytest.mark.parametrize(
    "how", ["wrong password", "no such virtual host", "nothing permitted", "not trusted", "no TLS there"]
)
def test_who_is_not_let_in_says_so_once_and_holds_nobody_up(
    how: str, connect: Connect, rabbit: RabbitMQ, capfd: pytest.CaptureFixture[str]
) -> None:
    if how == "nothing permitted":
        rabbit.control("add_user", "stranger", "a secret of the test")
    urls = {
        "wrong password": rabbit.url(password="a secret of the test"),  # noqa: S106  # it protects nothing
        "no such virtual host": rabbit.url(path="/nowhere"),
        "nothing permitted": rabbit.url(user="stranger", password="a secret of the test"),  # noqa: S106
        "not trusted": rabbit.tls_url().partition("?")[0],
        "no TLS there": rabbit.tls_url().replace(f":{rabbit.tls_port}", f":{rabbit.port}"),
    }
    broker = connect(urls[how])
    with capture_logs() as logs, fetching(broker) as came:
        # by who sends and by who fetches: each has a connection of its own
        wait_for(lambda: broker.trouble is not None and not broker.there(), "it to be noticed")
        for _ in range(20):
            assert quickly(lambda: send_tickets(broker, "default", 1)) is False
            time.sleep(0.05)
        with pytest.raises(dramatiq.errors.ConnectionClosed):
            quickly(lambda: waiting_tickets(broker, "default"))
        assert came == []
    assert [(log["event"], log["part"]) for log in logs if log["part"] == "tickets"] == [
        ("rabbitmq is away", "tickets")
    ]
    assert len(logs) == 2
    said = "".join(capfd.readouterr()) + repr(logs)
    assert "a secret" not in said
    assert PASSWORD not in said


def test_a_server_that_accepts_and_says_nothing_is_away(connect: Connect) -> None:
    with socket.create_server((HOST, 0)) as silent:
        url = f"amqp://{HOST}:{silent.getsockname()[1]}"
        broker = connect(url)
        assert quickly(lambda: send_tickets(broker, "default", 5)), "nobody knows yet"
        wait_for(lambda: not broker.there(), "it to be noticed")
        assert not quickly(lambda: send_tickets(broker, "default", 5))


def test_only_who_has_a_rabbitmq_loads_its_library(redis_url: str) -> None:
    program = (
        "import sys; import services.api.app, services.worker.process; from shared.queue import make_broker; "
        f"make_broker({redis_url!r}, '', ('default',)); assert 'pika' not in sys.modules; "
        "make_broker('amqp://localhost', '', ('default',)); assert 'pika' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def comes(broker: TicketBroker, came: list[float]) -> None:
    """A ticket that is sent, or one after it."""
    before = len(came)
    wait_for(lambda: send_tickets(broker, "default", 1) and len(came) > before, "a ticket")


def more(broker: TicketBroker, than: int) -> bool:
    """Whether more tickets wait than these, unless there is no room for more."""
    return waiting_tickets(broker, "photos") > than or than == FULL


def quickly(do: Callable[[], Any]) -> Any:
    began = time.monotonic()
    try:
        return do()
    finally:
        assert time.monotonic() - began < PROMPT
