"""What a migration may not do while the code of before still runs: see docs/operations.md, "Upgrading"."""

import re
from collections.abc import Collection, Iterable, Iterator

SMALL = frozenset(
    {"installation", "kind_turns", "lanes", "listeners", "owner_turns", "paces", "queue_turns", "workers"}
)
"""Tables with a row for each kind, queue, process or live batch: an index on them is made in a moment."""

_TABLE = r"(?:only )?\"?(?:public\.)?(?P<table>\w+)\"?"

_FORBIDDEN = {
    "drops something": rf"drop (?:table|view|function|type|sequence|trigger) |alter table {_TABLE} drop "
    rf"|alter table \S+ alter (?:column )?\S+ drop default",
    "drops an index that the code of before may go by": r"drop index ",
    "renames something": r"alter \w+ \S+ rename ",
    "changes a column's type": r"alter table \S+ alter (?:column )?\S+ (?:set data )?type ",
    "forbids null where there may be some": r"alter table \S+ alter (?:column )?\S+ set not null",
    "locks a table": r"lock (?:table )?",
    "replaces a function that the code of before calls": r"create or replace (?:function|procedure|view) ",
}
_ADDED = re.compile(rf"alter table {_TABLE} add (?:column )?(?P<what>.*)")
_CONSTRAINT = re.compile(r"(?:constraint \S+ )?(?:check|foreign key|unique|primary key|exclude)\b")
_INDEX = re.compile(rf"create (?:unique )?index (?P<if>if not exists )?.*? on {_TABLE} ")
_ROWS = re.compile(rf"(?:update|delete from|truncate(?: table)?|insert into) {_TABLE}")


def violations(statements: Iterable[str], existing: Collection[str]) -> Iterator[str]:
    """Why these statements are not for a database that is at work; `existing`: the tables that were there before."""
    for statement in statements:
        text = " ".join(statement.lower().split())
        for why, pattern in _FORBIDDEN.items():
            if re.match(pattern, text):
                yield f"{why}: {text[:100]}"
        for why in _on_tables(text, existing):
            yield f"{why}: {text[:100]}"


def _on_tables(text: str, existing: Collection[str]) -> Iterator[str]:
    added = _ADDED.match(text)
    if added and added["table"] in existing:
        if _CONSTRAINT.match(added["what"]):
            if not text.endswith("not valid"):
                yield "checks all rows that there are"
        elif " not null" in added["what"] and " default " not in added["what"]:
            yield "adds a column that the code of before leaves out, and that must not be null"
    index = _INDEX.match(text)
    if index and index["table"] in existing and index["table"] not in SMALL and not index["if"]:
        yield "keeps writers waiting while it reads a large table"
    rows = _ROWS.match(text)
    if rows and rows["table"] in existing and rows["table"] != "alembic_version":
        yield "changes rows that the code of before works with"
