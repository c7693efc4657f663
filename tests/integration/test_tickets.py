"""Work tickets by Redis, where that is a server of its own."""

import socket
import time
from contextlib import closing

import pytest

from shared.queue import make_broker, send_tickets


def test_a_server_that_stands_still_is_not_waited_for_by_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.queue._AWAY_FOR", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        frozen.settimeout(0)
        with closing(make_broker(f"redis://127.0.0.1:{frozen.getsockname()[1]}", "", ("default",))) as broker:
            assert not send_tickets(broker, "default", 1)
            frozen.accept()[0].close()
            for _ in range(3):
                assert not send_tickets(broker, "default", 1)
            with pytest.raises(BlockingIOError):
                frozen.accept()


def test_one_that_is_back_is_sent_to_at_once(redis_url: str, namespace: str) -> None:
    with closing(make_broker(redis_url, namespace, ("default",))) as broker:
        broker._away_until = time.monotonic() + 60  # type: ignore[attr-defined]  # it has just not answered
        assert not send_tickets(broker, "default", 1)
        assert broker.there()
        assert send_tickets(broker, "default", 1)
