"""The alert rules by Prometheus's own tester: each fires when it should, once it has lasted, and not else."""

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from msgspec import Struct

from tests.support.documents import Document
from tests.support.needs import program
from tests.support.prometheus import ALERTS, OBSERVABILITY

Given = dict[str, str]
"""Series, with their values from minute to minute: `0+5x60` rises by 5, 60 times; `3x60` stays."""


class Case(Struct, frozen=True):
    fires: Given
    quiet: tuple[Given, ...]
    """Each by itself."""
    after: str = "20m"
    """From the beginning."""
    before: str | None = None
    """So soon it does not fire yet."""
    also: tuple[Given, ...] = ()
    """It fires for each of these as well."""


WORKING = 'headway_jobs_workers{queue="q",status="working",instance="a"}'
DRAINING = 'headway_jobs_workers{queue="q",status="draining",instance="a"}'
RUNNABLE = 'headway_jobs_runnable{queue="q",instance="a"}'
RUNNING = 'headway_jobs_running{queue="q",instance="a"}'
WAITING = 'headway_jobs_waiting_seconds{queue="q",instance="a"}'
ENDED = 'headway_worker_attempts_ended_total{queue="q",kind="k",outcome="%s",instance="a"}'
RESTARTS = 'headway_worker_restarts_total{queue="q",instance="a"}'
EXPIRED = 'headway_worker_expired_leases_total{queue="q",instance="%s"}'
BACKLOG = 'headway_jobs_listener_backlog{listener="l",instance="a"}'
FAILURES = 'headway_worker_ledger_failures_total{queue="q",instance="a"}'
REFUSED = 'headway_stream_refusals_total{reason="%s",instance="a"}'
RESETS = 'headway_stream_resets_total{reason="%s",instance="a"}'
REQUESTS = 'headway_api_requests_total{route="/api/batches",method="GET",status="%s",instance="a"}'
READINGS = 'headway_stream_readings_total{outcome="%s",instance="a"}'
STREAM_UP = 'up{job="headway-stream",instance="%s"}'
API_UP = 'up{job="headway-api",instance="%s"}'


def lags(fast: int, slow: int) -> Given:
    """Deliveries a minute, within a tenth of a second and after five."""
    bucket = 'headway_stream_lag_seconds_bucket{instance="a",le="%s"}'
    return {
        bucket % "0.1": f"0+{fast}x60",
        bucket % "2.5": f"0+{fast}x60",
        bucket % "5.0": f"0+{fast + slow}x60",
        bucket % "+Inf": f"0+{fast + slow}x60",
    }


def requests(route: str, fast: int, slow: int) -> Given:
    bucket = f'headway_api_request_seconds_bucket{{instance="a",method="POST",route="{route}",le="%s"}}'
    return {
        bucket % "0.1": f"0+{fast}x60",
        bucket % "1.0": f"0+{fast}x60",
        bucket % "2.5": f"0+{fast + slow}x60",
        bucket % "+Inf": f"0+{fast + slow}x60",
    }


CASES = {
    "HeadwayQueueUnworked": Case(
        {RUNNABLE: "5x60", WORKING: "0x60"},
        (
            {RUNNABLE: "5x60", WORKING: "1x60"},
            {RUNNABLE: "0x60", WORKING: "0x60"},
            {
                RUNNABLE: "5x60",
                WORKING: "0x60",
                WORKING.replace('"q"', '"p"'): "1x60",
                WORKING.replace('"a"', '"b"'): "1x60",
            },
            {RUNNABLE: "0 5 0 5 0 5 0 5 0x60", WORKING: "0x60"},
            {RUNNABLE: "0x60", RUNNING: "5x60", WORKING: "0x60", DRAINING: "1x60"},
        ),
        after="3m",
        before="1m",
        also=({RUNNABLE: "0x60", RUNNING: "5x60", WORKING: "0x60", DRAINING: "0x60"},),
    ),
    "HeadwayJobsWait": Case(
        {WAITING: "0+60x60"}, ({WAITING: "200x60"}, {WAITING: "0 400 0 400 0 400 0 400 0x60"}), after="11m", before="7m"
    ),
    "HeadwayJobsFail": Case(
        {ENDED % "retried": "0+2x60", ENDED % "completed": "0+4x60"},
        (
            {ENDED % "failed": "0+1x60", ENDED % "completed": "0+9x60"},
            {ENDED % "failed": "0x10 1x50", ENDED % "completed": "0x60"},
            {ENDED % "cancelled": "0+9x60", ENDED % "completed": "0+1x60"},
        ),
        before="4m",
    ),
    "HeadwayListenerBehind": Case({BACKLOG: "101x60"}, ({BACKLOG: "99x60"},), before="10m"),
    "HeadwayWorkersRestart": Case({RESTARTS: "0+1x60"}, ({RESTARTS: "0x5 1x60"}, {RESTARTS: "7x60"})),
    "HeadwayWorkersIdle": Case(
        {
            'headway_worker_processes{queue="q",instance="a"}': "2x60",
            'headway_worker_processes_taking{queue="q",instance="a"}': "1x60",
        },
        (
            {
                'headway_worker_processes{queue="q",instance="a"}': "2x60",
                'headway_worker_processes_taking{queue="q",instance="a"}': "1x5 2x55",
            },
        ),
        after="11m",
        before="9m",
    ),
    "HeadwayLeasesExpire": Case(
        {EXPIRED % "a": "0 2 2x60", EXPIRED % "b": "0 3 3x60"},
        ({EXPIRED % "a": "0 2 2x60", EXPIRED % "b": "0x60"},),
        after="10m",
    ),
    "HeadwayHandlersHang": Case(
        {'headway_worker_held_threads{queue="q",instance="a"}': "1x60"},
        ({'headway_worker_held_threads{queue="q",instance="a"}': "1x5 0x55"},),
        after="11m",
        before="9m",
    ),
    "HeadwayCommitsFail": Case({FAILURES: "0+1x60"}, ({FAILURES: "0 2 2x60"},)),
    "HeadwayStreamAway": Case(
        {STREAM_UP % "a": "0x60", STREAM_UP % "b": "0x60", API_UP % "a": "1x60"},
        ({STREAM_UP % "a": "0x60", STREAM_UP % "b": "1x60"}, {STREAM_UP % "a": "1 0 1x60"}),
        after="2m",
        before="0m",
    ),
    "HeadwayStreamSlow": Case(lags(90, 10), (lags(1000, 1), lags(0, 0)), before="8m"),
    "HeadwayStreamStalls": Case(
        {'headway_stream_stalls_total{instance="a"}': "0+120x60"},
        ({'headway_stream_stalls_total{instance="a"}': "0+30x60"},),
        before="8m",
    ),
    "HeadwayViewersNearLimit": Case(
        {'headway_stream_viewers{instance="a"}': "90x60", 'headway_stream_viewers_limit{instance="a"}': "100x60"},
        (
            {
                'headway_stream_viewers{instance="a"}': "90x60",
                'headway_stream_viewers_limit{instance="a"}': "100x60",
                'headway_stream_viewers{instance="b"}': "10x60",
                'headway_stream_viewers_limit{instance="b"}': "100x60",
            },
        ),
        after="6m",
        before="4m",
    ),
    "HeadwayViewersRefused": Case(
        {REFUSED % "overloaded": "0+5x60"}, ({REFUSED % "owner": "0+50x60"}, {REFUSED % "process": "0 3 3x60"})
    ),
    "HeadwayEpochNotRotated": Case(
        {RESETS % "ahead": "0x5 1x60"}, ({RESETS % "ahead": "1x60"}, {RESETS % "epoch": "0+9x60"}), after="7m"
    ),
    "HeadwayApiAway": Case(
        {API_UP % "a": "0x60", STREAM_UP % "a": "1x60"}, ({API_UP % "a": "1x60"},), after="2m", before="0m"
    ),
    "HeadwayApiErrors": Case(
        {REQUESTS % "5xx": "0+1x60", REQUESTS % "2xx": "0+9x60"},
        (
            {REQUESTS % "5xx": "0+1x60", REQUESTS % "2xx": "0+99x60"},
            {REQUESTS % "4xx": "0+9x60", REQUESTS % "2xx": "0+9x60"},
            {REQUESTS % "5xx": "0x60", REQUESTS % "2xx": "0x60"},
        ),
        before="4m",
    ),
    "HeadwayApiSlow": Case(
        requests("/api/batches", 90, 10),
        (requests("/api/batches", 99, 1), requests("/api/uploads", 0, 10) | requests("/api/batches", 99, 1)),
        before="8m",
    ),
    "HeadwayDiskFull": Case(
        {'headway_api_problems_total{code="disk_full",instance="a"}': "0x5 1x60"},
        ({'headway_api_problems_total{code="invalid",instance="a"}': "0+9x60"},),
        after="7m",
    ),
    "HeadwayProcessDown": Case(
        {API_UP % "a": "0x60", API_UP % "b": "1x60"},
        ({API_UP % "a": "1x60", 'up{job="node",instance="a"}': "0x60"},),
        after="6m",
        before="4m",
    ),
    "HeadwayPostgresqlAway": Case(
        {
            'headway_api_postgresql_up{job="headway-api",instance="a"}': "1x60",
            'headway_worker_postgresql_up{job="headway-worker",queue="q",instance="a"}': "0x60",
        },
        ({'headway_api_postgresql_up{job="headway-api",instance="a"}': "1 0 1x60"},),
        after="2m",
        before="0m",
    ),
    "HeadwayReadingsFail": Case(
        {READINGS % "failed": "0+1x60", READINGS % "answered": "0+9x60"},
        ({READINGS % "failed": "0+1x60", READINGS % "answered": "0+99x60"},),
        before="4m",
    ),
    "HeadwayRedisAway": Case(
        {
            'headway_stream_redis_up{job="headway-stream",instance="a"}': "1x60",
            'headway_stream_redis_up{job="headway-stream",instance="b"}': "0x60",
        },
        ({'headway_stream_redis_up{job="headway-stream",instance="a"}': "1 0 1x60"},),
        after="3m",
        before="1m",
    ),
}


def alerts() -> list[str]:
    groups = msgspec.yaml.decode(ALERTS.read_bytes())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]


def test_every_alert_has_a_case() -> None:
    assert CASES.keys() == set(alerts())


@pytest.mark.parametrize("alert", CASES)
def test_it_fires_when_it_should(alert: str, tmp_path: Path) -> None:
    case = CASES[alert]
    tests = [_expect(alert, given, case.after, firing=True) for given in (case.fires, *case.also)]
    tests += [_expect(alert, given, "20m", firing=False) for given in case.quiet]
    if case.before is not None:
        tests.append(_expect(alert, case.fires, case.before, firing=False))
    given = {"rule_files": [str(ALERTS)], "evaluation_interval": "15s", "tests": tests}
    file = tmp_path / "test.yml"
    file.write_bytes(msgspec.json.encode(given))  # which is YAML as well
    _promtool("test", "rules", str(file))


def _expect(alert: str, given: Given, at: str, *, firing: bool) -> dict[str, Any]:
    expression = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in given.items()],
        "promql_expr_test": [
            {"expr": expression, "eval_time": at, "exp_samples": [{"labels": "{}", "value": 1}] if firing else []}
        ],
    }


def test_the_rules_and_the_configuration_are_in_order(tmp_path: Path) -> None:
    _promtool("check", "rules", "--lint-fatal", str(ALERTS))
    _promtool("check", "config", str(OBSERVABILITY / "prometheus.yml"))
    # Debian's knows no Kubernetes: what it would find there is given
    config = msgspec.yaml.decode((OBSERVABILITY / "prometheus-kubernetes.yml").read_bytes())
    for scraped in config["scrape_configs"]:
        assert scraped.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        scraped["static_configs"] = [{"targets": ["a:8000"]}]
    (tmp_path / "alerts.yml").write_bytes(ALERTS.read_bytes())
    (tmp_path / "prometheus.yml").write_bytes(msgspec.json.encode(config))
    _promtool("check", "config", str(tmp_path / "prometheus.yml"))


def _promtool(*arguments: str) -> None:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_statements_of_the_runbook_run(database_url: str) -> None:
    text = Document("runbook.md").text
    blocks = [block for block in text.split("\n\n") if block.startswith("    SELECT")]
    assert len(blocks) > 5
    with psycopg.connect(database_url) as connection:
        for block in blocks:
            for statement in filter(str.strip, block.split(";")):
                connection.execute(statement.partition("--")[0] if "\n" not in statement.strip() else statement)
