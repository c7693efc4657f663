"""The kinds of job: `KINDS` and `PLUGINS` by name, and their `QUEUES`, from the table in table.py.

That is read when one of them is first asked for, and not before: the module of a plug-in imports from this package.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.kinds.table import KINDS, PLUGINS, QUEUES

__all__ = ["KINDS", "PLUGINS", "QUEUES"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from shared.kinds import table  # noqa: PLC0415  # see above

    return getattr(table, name)
