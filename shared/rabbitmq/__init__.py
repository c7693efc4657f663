"""RabbitMQ as the carrier of tickets. They are hints: one may be lost, and none holds up whoever sends it.

| name | what |
|---|---|
| `headway:dramatiq:<queue>` | tickets, which need not survive: at most 1,000, for a minute at most |
| `headway:dramatiq:echo.<id>` | of one connection: what a process says to itself, to know that it is heard |

`HEADWAY_NAMESPACE` is put before each. A process has one connection to send by (post.py), and a worker one to fetch by
(consumer.py): RabbitMQ stops listening to connections that send when it is short of memory or disk. Each belongs to one
thread, which answers heartbeats.
"""

from shared.rabbitmq.broker import RabbitTickets

__all__ = ["RabbitTickets"]
