"""What a run knows and nobody else is to learn, and how that could be written."""

import base64
import json
from secrets import token_hex
from typing import Any
from urllib.parse import quote, quote_plus


class Known:
    """What this run knows and nobody else is to learn; each value is recognised wherever it turns up."""

    def __init__(self) -> None:
        def value(name: str) -> str:
            return f"{name}-{token_hex(12)}"

        self.secret = value("signing-secret-of-the-tokens")
        self.ticket_key = value("signing-key-of-the-tickets")
        self.old_key = value("old-signing-key-of-the-tickets")
        self.password = f'pass"word/ü+{token_hex(8)} & \\<€>'
        self.key_file = "-----BEGIN KEY-----\n" + "\n".join(token_hex(20) for _ in range(4)) + "\n-----END KEY-----"
        self.header = value("Bearer")
        self.by_host = value("of-host")
        self.wrong = value("never-accepted")
        self.private = value("only-for-its-owner")
        """Names, titles, metadata: in replies and in Redis, but in no log."""

    def params(self, mode: str) -> dict[str, Any]:
        return {
            "mode": mode,
            "password": self.password,
            "keys": [self.key_file],
            "headers": {"Authorization": self.header},
            "byHost": {"example.org": self.by_host},
        }


def ways_of(value: str) -> set[str]:
    """How it could have been written, worked out here without the code that is to find it."""
    data = value.encode()
    ways = {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(value)[1:-1])[1:-1],
        repr(value)[1:-1],
        repr(data)[2:-1],
        quote(value),
        quote(value, safe=""),
        quote_plus(value),
        data.hex(),
    }
    half = value[: len(value) // 2]  # which a cut would leave
    ways |= {half, json.dumps(half)[1:-1], json.dumps(half, ensure_ascii=False)[1:-1]}
    for before in ("", "x", "xx"):
        encoded = base64.b64encode(before.encode() + data).decode()
        ways.add(encoded[4 if before else 0 : len(encoded) - len(encoded) % 4 - 4])
    return {way for way in ways if len(way) > 3}
