"""Connections to RabbitMQ, and the queues in it."""

import logging
import random
import ssl

import pika
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import ChannelClosedByBroker

from shared.amqp_urls import Amqp

AGAIN = 0.5
"""Seconds between two attempts to connect."""

_HEARTBEAT = 10
"""Seconds. A server that stands still is left after two or three; others see it sooner, by `Pulse`."""

_CONNECT = 1.0
"""Seconds for a connection to one node, and as many again until it lets us in."""

_MOST = 1_000
"""Tickets in a queue. Of more the oldest are dropped: each only says that there is something to do."""

_OLDEST = 60_000
"""Milliseconds for which a ticket is kept: by then the sweeper has sent others."""

_EXISTS_OTHERWISE = 406


def parameters(address: Amqp, name: str) -> list[pika.ConnectionParameters]:
    """`name`: what the connection is called in RabbitMQ's lists."""
    context = None
    if address.tls:
        files = dict(address.files)
        context = ssl.create_default_context(cafile=files.get("cacertfile"))
        if "certfile" in files:
            context.load_cert_chain(files["certfile"], files.get("keyfile"))
    return [
        pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=address.vhost,
            credentials=pika.PlainCredentials(address.username, address.password),
            ssl_options=context and pika.SSLOptions(context, host),
            heartbeat=_HEARTBEAT,
            socket_timeout=_CONNECT,
            stack_timeout=2 * _CONNECT,
            client_properties={"connection_name": name},
        )
        for host, port in address.nodes
    ]


def connect(address: Amqp, name: str) -> BlockingConnection:
    """To any of the nodes, each time in another order. Belongs to the thread that calls. Raises all sorts of errors."""
    logging.getLogger("pika").setLevel(logging.CRITICAL + 1)  # an outage is told by an Outage, once
    nodes = parameters(address, name)
    random.shuffle(nodes)
    return BlockingConnection(nodes)


def make_queue(connection: BlockingConnection, name: str) -> None:
    """Unless it is there, also if made otherwise by somebody who may have had reasons."""
    with connection.channel() as channel:
        try:
            # durable, as RabbitMQ wants it of queues that are shared; the tickets in it are not
            channel.queue_declare(
                name,
                durable=True,
                arguments={"x-max-length": _MOST, "x-message-ttl": _OLDEST, "x-overflow": "drop-head"},
            )
        except ChannelClosedByBroker as error:
            if error.reply_code != _EXISTS_OTHERWISE:
                raise


def count(channel: BlockingChannel, name: str) -> int:
    """Tickets that wait in it. One that is gone closes the channel."""
    return int(channel.queue_declare(name, passive=True).method.message_count)
