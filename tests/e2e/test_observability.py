"""A real Prometheus scrapes real services: our rules and panels say something there, and alerts fire in earnest."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from infra.embedded.valkey import Valkey
from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.plugged import install
from tests.support.ports import own_port
from tests.support.processes import service
from tests.support.prometheus import ALERTS, DASHBOARD, Prometheus, prometheus
from tests.support.rehearsals import mixed
from tests.support.sse import Stream
from tests.support.streams import status
from tests.support.web import client, submit

_RANGE = "10s"
"""In place of what Grafana chooses: at least two of the scrapes, which come each second here."""

_PATIENCE = 60.0
"""Seconds: on a machine that is busy with other tests."""


class Watched(Struct):
    """Api, stream and workers, and a Prometheus that scrapes them."""

    settings: Settings
    api: str
    stream: str
    workers: "subprocess.Popen[bytes]"
    valkey: Valkey
    prometheus: Prometheus


@contextmanager
def watched(settings: Settings, directory: Path) -> Iterator[Watched]:
    """Alerts do not wait to be sure."""
    (directory / "told.py").write_text("def hear(event):\n    pass\n")
    listener = install(directory, "told", {"headway.listeners": {"one": "told:hear"}})
    listener["TMPDIR"] = str(directory)  # what is killed leaves something there
    ports = {name: own_port() for name in ("api", "stream", "worker")}
    addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    rules = re.sub(r"for: \w+", "for: 0s", ALERTS.read_text())
    with ExitStack() as stack:
        valkey = Valkey(directory / "valkey", own_port())
        stack.callback(valkey.stop)
        valkey.start()
        settings = replace(settings, redis_url=valkey.url, worker_port=ports["worker"])
        for name in ("api", "stream"):
            stack.enter_context(service(f"services.{name}", settings=replace(settings, port=ports[name])))
        workers = stack.enter_context(service("infra.workers", "--queue", "default", settings=settings, more=listener))
        server = stack.enter_context(
            prometheus(
                directory / "prometheus", {f"headway-{name}": [address] for name, address in addresses.items()}, rules
            )
        )
        for address in addresses.values():
            wait_for(lambda at=address: status(f"http://{at}", "/health/ready") == 200, "all to be ready", _PATIENCE)
        yield Watched(settings, f"http://{addresses['api']}", f"http://{addresses['stream']}", workers, valkey, server)


def test_rules_and_panels_say_something_and_alerts_fire_in_earnest(settings: Settings, tmp_path: Path) -> None:
    with watched(settings, tmp_path) as whole:
        _work(whole)
        _rules_are_in_order(whole.prometheus)
        _panels_show_something(whole.prometheus)

        os.kill(whole.valkey.pid, signal.SIGSTOP)
        _await_firing(whole.prometheus, "HeadwayRedisAway")
        os.kill(whole.valkey.pid, signal.SIGCONT)
        wait_for(lambda: not whole.prometheus.firing(), "all to be well again", _PATIENCE)

        with client(whole.api, whole.settings) as api:
            submit(api, mixed(6, lasting=3))
        whole.workers.kill()  # and with it those that it keeps alive
        firing = _await_firing(whole.prometheus, "HeadwayQueueUnworked")
    assert firing <= {"HeadwayQueueUnworked", "HeadwayProcessDown", "HeadwayLeasesExpire"}


def _work(whole: Watched) -> None:
    """A bit of everything that is counted only once it has happened."""
    body = mixed(24, lasting=0)
    with client(whole.api, whole.settings) as api:
        batch_id = submit(api, body)["batchId"]
        with Stream(whole.stream, batch_id, issue_token(whole.settings, OWNER)) as stream:
            stream.until("complete", 60)
        api.get("/api/batches/nothing")


def _rules_are_in_order(server: Prometheus) -> None:
    wait_for(lambda: all(rule["health"] != "unknown" for rule in server.rules().values()), "rules to be looked at", 30)
    assert {rule["lastError"] for rule in server.rules().values() if "lastError" in rule} == set()
    wait_for(lambda: not server.firing(), "nothing to be wrong", _PATIENCE)


def _panels_show_something(server: Prometheus) -> None:
    dashboard = msgspec.json.decode(DASHBOARD.read_bytes())
    targets = [
        (f"{panel['title']} {target['refId']}", target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    empty = dict(targets)

    def all_shown() -> bool:
        for name, expression in list(empty.items()):
            if server.query(re.sub(r"\$(queue|kind)\b", ".+", expression.replace("$__rate_interval", _RANGE))):
                del empty[name]
        return not empty

    wait_for(all_shown, f"every panel to show something; {sorted(empty)} show nothing", 30)


def _await_firing(server: Prometheus, alert: str) -> set[str]:
    wait_for(lambda: alert in server.firing(), f"{alert} to fire", _PATIENCE)
    return server.firing()
