"""All that a run says to anybody, kept to be searched."""

import json
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import redis

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.known import Known


class Written:
    """Texts by where they were found."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, where: str, text: str) -> None:
        with self._lock:
            self.texts[where] = self.texts.get(where, "") + text + "\n"

    def around(self, word: str) -> dict[str, str]:
        """Where it is, with what stands about the first."""
        return {where: text.partition(word)[0][-200:] + word for where, text in self.texts.items() if word in text}

    def having(self, word: str) -> list[str]:
        return [where for where, text in self.texts.items() if word in text]


class Client:
    """Every reply is kept, but for those whose purpose is to hand out a ticket."""

    def __init__(self, address: str, written: Written, known: Known) -> None:
        self._http = httpx.Client(base_url=address, trust_env=False, timeout=30)
        self._written = written
        common = {"database_url": "postgresql:///", "redis_url": "redis:///", "ticket_key": known.ticket_key}
        good = Settings(**common, secret=known.secret)
        others = Settings(**common, secret=known.wrong + known.wrong)
        self.good = issue_token(good, "anna")
        self.tokens = {
            "good": self.good,
            "expired": issue_token(good, "anna", ttl=-60),
            "of another secret": issue_token(others, "anna"),
            "reading": issue_token(good, "anna", scope="read"),
            "other owner": issue_token(good, "berta"),
            "not even one": known.wrong,
        }

    def ask(
        self, method: str, path: str, *, who: str | None = "good", hands_out: bool = False, **content: Any
    ) -> httpx.Response:
        headers = content.pop("headers", {})
        if who is not None:
            headers = {"Authorization": f"Bearer {self.tokens[who]}"} | headers
        reply = self._http.request(method, path, headers=headers, **content)
        if not hands_out:
            self._written.add(f"reply to {method} {urlsplit(path).path}", f"{reply.headers}\n{reply.text}")
        return reply

    def create(self, batch: dict[str, Any]) -> dict[str, Any]:
        reply = self.ask("POST", "/api/batches", hands_out=True, json=batch)
        assert reply.status_code == 201, reply.text
        created: dict[str, Any] = reply.json()
        rest = {name: value for name, value in created.items() if name not in {"streamUrl", "webUrl", "reportToken"}}
        self._written.add("reply to POST /api/batches", json.dumps(rest))
        return created

    def wait(self, batch_id: str) -> dict[str, Any]:
        def finished() -> dict[str, Any] | None:
            with suppress(httpx.TransportError):
                reply = self.ask("GET", f"/api/batches/{batch_id}")
                if reply.status_code == 200 and reply.json()["finishedAt"]:
                    return dict(reply.json())
            return None

        return dict(wait_for(finished, "the batch to finish", 60))

    def record(self, name: str, url: str, *, token: str | None = None) -> threading.Thread:
        """Keeps what a stream says, to its end; join the thread."""

        def read() -> None:
            headers = {"Accept": "text/event-stream"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
            with (
                suppress(httpx.TransportError),
                self._http.stream("GET", url, headers=headers, timeout=60) as response,
            ):
                for chunk in response.iter_text():
                    self._written.add(name, chunk)

        thread = threading.Thread(target=read)
        thread.start()
        return thread

    def close(self) -> None:
        self._http.close()


class Monitor:
    """All that passes through Redis, as MONITOR tells it, through restarts."""

    def __init__(self, url: str, written: Written) -> None:
        self._url, self._written = url, written
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(20)

    def _follow(self) -> None:
        while not self._stop.is_set():
            client = redis.Redis.from_url(self._url, socket_timeout=1)
            with suppress(redis.RedisError, OSError), client.monitor() as monitor:
                self._listen(monitor)
            client.close()
            time.sleep(0.05)

    def _listen(self, monitor: Any) -> None:
        while not self._stop.is_set():
            with suppress(redis.TimeoutError):
                self._written.add("redis", monitor.next_command()["command"])
