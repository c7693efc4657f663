"""A PostgreSQL that tells whoever asks how it went about each statement, also those within functions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from infra.embedded.postgres import Postgres
from tests.support.plans import Plan, read_plan


class ExplainingPostgres(Postgres):
    def _command(self) -> list[str | Path]:
        settings = {
            "log_min_duration": "0",
            "log_analyze": "on",
            "log_timing": "off",
            "log_nested_statements": "on",
            "log_format": "json",
            "log_level": "notice",
        }
        options = [option for name, value in settings.items() for option in ("-c", f"auto_explain.{name}={value}")]
        # nobody is told unless he asks: see `plans_of`
        return [*super()._command(), "-c", "session_preload_libraries=auto_explain", *options]


@contextmanager
def plans_of(connection: psycopg.Connection[Any]) -> Iterator[dict[str, list[Plan]]]:
    """Of all that runs meanwhile, by the statement's text, with one space for each white space."""
    plans: dict[str, list[Plan]] = {}

    def learn(notice: psycopg.errors.Diagnostic) -> None:
        text = notice.message_primary or ""
        if text.startswith("duration: "):
            said = msgspec.json.decode(text[text.index("{") :])
            plans.setdefault(" ".join(said["Query Text"].split()), []).append(read_plan(said["Plan"]))

    connection.add_notice_handler(learn)
    try:
        yield plans
    finally:
        connection.remove_notice_handler(learn)
