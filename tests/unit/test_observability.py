"""infra/observability against docs/operations.md and docs/runbook.md: what it asks for exists, and all is told."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.support.documents import Document
from tests.support.metrics import OPEN, described
from tests.support.prometheus import ALERTS, DASHBOARD, OBSERVABILITY

ANYWHERE = {"job", "instance", "le"}
"""Labels that Prometheus and histograms add."""

OTHERS = {"up": {"job", "instance"}, "process_resident_memory_bytes": set(), "process_cpu_seconds_total": set()}
"""Metrics that are not ours."""

ALERT_LABELS = {"alertname", "alertstate"}

_SELECTOR = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on) \(([\w, ]+)\)")
_NAME = re.compile(r"\b(?:headway|process)_[a-z_]+[a-z]\b")

RULES: list[dict[str, Any]] = [
    rule for group in msgspec.yaml.decode(ALERTS.read_bytes())["groups"] for rule in group["rules"]
]
RUNBOOK = Document("runbook.md")


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.json.decode(DASHBOARD.read_bytes())["panels"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """With where each stands."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]


def labels_of(name: str) -> dict[str, set[str]] | None:
    """Those of a metric of ours, with their values; None: there is no such metric."""
    kinds = described()
    for suffix in ("_bucket", "_sum", "_count"):
        if kinds.get(name.removesuffix(suffix), ("",))[0] == "histogram":
            return kinds[name.removesuffix(suffix)][1]
    return None if name not in kinds or kinds[name][0] == "histogram" else kinds[name][1]


everywhere = pytest.mark.parametrize("expression", [pytest.param(text, id=where) for where, text in expressions()])


@everywhere
def test_every_metric_exists(expression: str) -> None:
    for name in _NAME.findall(expression):
        assert name in OTHERS or labels_of(name) is not None, name


@everywhere
def test_every_label_and_value_exists(expression: str) -> None:
    for name, matchers in _SELECTOR.findall(expression):
        known = labels_of(name) or {}
        for label, _, value in _MATCHER.findall(matchers):
            if label in ANYWHERE or name in OTHERS:
                continue
            assert label in known, f"{name} has no {label}"
            if label not in OPEN:
                for each in value.split("|"):
                    assert each in known[label], f"{name}{{{label}}} is never {each}"


@everywhere
def test_it_groups_by_labels_that_there_are(expression: str) -> None:
    known = ANYWHERE.union(*(labels_of(name) or {} for name in _NAME.findall(expression)))
    for labels in _GROUPING.findall(expression):
        assert set(labels.split(", ")) <= known


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_is_and_where_it_is_explained(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"Headway([A-Z][a-z]+)+", rule["alert"])
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    labels = _GROUPING.findall(rule["expr"])
    for used in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
        assert used in ANYWHERE or any(used in given.split(", ") for given in labels)


def test_every_alert_is_in_the_runbook_and_the_reverse() -> None:
    alerts = [rule["alert"] for rule in RULES]
    assert len(set(alerts)) == len(alerts)
    assert re.findall(r"^## (Headway\w+)$", RUNBOOK.text, re.MULTILINE) == alerts
    severity = {rule["alert"]: rule["labels"]["severity"] for rule in RULES}
    for alert in alerts:
        section = RUNBOOK.section(alert)
        assert section.lstrip().startswith(f"*{severity[alert].capitalize()}.* "), alert
        for part in ("**For users**", "**Look**", "**Do**", "**It is over**"):
            assert part in section, f"{alert} does not say {part}"


def test_what_the_runbook_names_exists() -> None:
    for name in _NAME.findall(RUNBOOK.text):
        assert name in OTHERS or labels_of(name) is not None, name
    titles = {panel["title"] for panel in panels()}
    for title in re.findall(r"“([A-Z][^”]+)”", RUNBOOK.text):
        assert title.replace("\n", " ") in titles | {"Headway"}, title


def test_the_dashboard_holds_together() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_metric_of_ours_is_shown_or_alerted_on() -> None:
    used = {name for _, text in expressions() for name in _NAME.findall(text)}
    used |= {re.sub("_(bucket|sum|count)$", "", name) for name in used}
    assert described().keys() - used == UNSEEN


UNSEEN = {
    "headway_stream_connections_opened_total",
    "headway_stream_longest_stall_seconds",
    "headway_stream_resumes_total",
    "headway_worker_attempts_started_total",
}
"""For whoever looks closer."""


def test_jobs_are_called_the_same_everywhere() -> None:
    jobs = set(re.findall(r'job="(headway-\w+)"', ALERTS.read_text()))
    config = msgspec.yaml.decode((OBSERVABILITY / "prometheus.yml").read_bytes())
    assert jobs <= {scraped["job_name"] for scraped in config["scrape_configs"]}


def test_the_compose_file_fits_to_the_stack() -> None:
    top = OBSERVABILITY.parents[1]
    stack = msgspec.yaml.decode((top / "compose.yaml").read_bytes())
    ours = msgspec.yaml.decode((OBSERVABILITY / "compose.yaml").read_bytes())
    assert not ours["services"].keys() & stack["services"].keys()
    for name, service in ours["services"].items():
        assert set(service["networks"]) <= stack["networks"].keys(), name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), "nothing of it is published"
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (top / source).exists() if source.startswith("./") else source in ours["volumes"], volume
    config = msgspec.yaml.decode((OBSERVABILITY / "prometheus.yml").read_bytes())
    for scraped in config["scrape_configs"]:
        (found,) = scraped["dns_sd_configs"]
        assert found["names"] == [scraped["job_name"].removeprefix("headway-")]
        assert found["names"][0] in stack["services"]
        assert found["port"] == 8000
