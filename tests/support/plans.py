"""How PostgreSQL goes about a statement: its plan, with what it really looked at, read from EXPLAIN ANALYZE."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import psycopg
from msgspec import Struct
from sqlalchemy import TextClause
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

Mode = Literal["custom", "generic"]
"""Made for these parameters, or once for all: PostgreSQL chooses one of them for a statement that is run often."""


class Plan(Struct):
    indexes: frozenset[str]
    """The names of those that are read."""
    end_to_end: frozenset[str]
    """The tables that are read so."""
    visited: int
    """Rows that were looked at, also those that were thrown away then."""
    sorted: int
    """The most rows that were sorted together."""


def explain(
    connection: psycopg.Connection[Any],
    statement: TextClause,
    parameters: Mapping[str, Any],
    mode: Mode,
    *,
    cursor: bool = False,
    before: TextClause | None = None,
) -> Plan:
    """Runs it as the services do, with the types that the driver gives its parameters, and takes it back.

    `cursor`: it is read piece by piece, for which PostgreSQL plans anew each time. `before`: a statement that comes
    first in the same transaction.
    """
    sql = str(statement.compile(dialect=PGDialect_psycopg()))
    client = psycopg.ClientCursor(connection)
    with connection.transaction(force_rollback=True):
        connection.execute(f"SET LOCAL plan_cache_mode = force_{mode}_plan")
        if before is not None:
            connection.execute(str(before))
        if cursor:
            what = f"DECLARE explained NO SCROLL CURSOR FOR {sql}"
        else:
            connection.execute(_prepare(connection, sql, parameters))
            what = "EXECUTE explained"
            if names := dict.fromkeys(re.findall(r"%\((\w+)\)s", sql)):
                what += "(" + ", ".join(f"%({name})s" for name in names) + ")"
        row = client.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {what}", parameters).fetchone()
    connection.execute("DEALLOCATE ALL")
    assert row is not None
    return read_plan(row[0][0]["Plan"])


def _prepare(connection: psycopg.Connection[Any], sql: str, parameters: Mapping[str, Any]) -> str:
    """PREPARE for a statement, with the types that PostgreSQL found when the driver prepared it."""
    with connection.transaction(force_rollback=True):
        connection.execute(f"EXPLAIN {sql}", parameters, prepare=True)
        query = "SELECT statement, CAST(parameter_types AS text[]) FROM pg_prepared_statements"
        ((prepared, types),) = connection.execute(query)
    listed = f"({', '.join(types)})" if types else ""
    return f"PREPARE explained {listed} AS {prepared.removeprefix('EXPLAIN ')}"


def read_plan(root: Mapping[str, Any]) -> Plan:
    nodes = list(_nodes(root))
    scans = [node for node in nodes if "Relation Name" in node and node["Node Type"] != "ModifyTable"]
    arbiters = {index for node in nodes for index in node.get("Conflict Arbiter Indexes", ())}
    return Plan(
        indexes=frozenset({node["Index Name"] for node in nodes if "Index Name" in node} | arbiters),
        end_to_end=frozenset(node["Relation Name"] for node in scans if node["Node Type"] == "Seq Scan"),
        visited=round(sum(map(_visited, scans))),
        sorted=round(max((_sorted(node) for node in nodes if "Sort" in node["Node Type"]), default=0)),
    )


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _visited(scan: Mapping[str, Any]) -> float:
    """Rows are given for one loop."""
    removed = sum(count for name, count in scan.items() if name.startswith("Rows Removed by"))
    return float(scan["Actual Loops"] * (scan["Actual Rows"] + removed))


def _sorted(sort: Mapping[str, Any]) -> float:
    """An incremental sort has its input in order but for ties."""
    groups = sum(sort.get(kind, {}).get("Group Count", 0) for kind in ("Full-sort Groups", "Pre-sorted Groups"))
    return float(sort["Plans"][0]["Actual Rows"]) / max(1, groups)
