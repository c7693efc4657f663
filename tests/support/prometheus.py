"""A real Prometheus, which scrapes real services by our rules, and what it answers."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.support.batches import wait_for
from tests.support.needs import program
from tests.support.ports import own_port

OBSERVABILITY = Path(__file__).parents[2] / "infra" / "observability"
ALERTS = OBSERVABILITY / "alerts.yml"
DASHBOARD = OBSERVABILITY / "dashboard.json"


class Prometheus:
    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=10, trust_env=False)

    def ready(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._client.close()

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of a reply. Raises AssertionError with what it says is wrong."""
        reply = self._client.get(f"/api/v1/{path}", params=parameters)
        said = reply.json()
        assert said["status"] == "success", said
        return said["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that it has now."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def rules(self) -> dict[str, dict[str, Any]]:
        """Alerts, by name."""
        return {rule["name"]: rule for group in self.ask("rules")["groups"] for rule in group["rules"]}

    def firing(self) -> set[str]:
        return {name for name, rule in self.rules().items() if rule["state"] == "firing"}


@contextmanager
def prometheus(directory: Path, targets: Mapping[str, Sequence[str]], rules: str) -> Iterator[Prometheus]:
    """`targets`: addresses, `host:port`, by job. It scrapes, and looks at the rules, each second."""
    binary = program("prometheus")
    directory.mkdir()
    (directory / "alerts.yml").write_text(rules)
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(addresses)}]} for job, addresses in targets.items()
        ],
    }
    (directory / "prometheus.yml").write_bytes(msgspec.json.encode(config))  # which is YAML as well
    port = own_port()
    command = [
        binary,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_for(lambda: server.ready() or process.poll() is not None, "Prometheus to be ready", 30)
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait(20)
