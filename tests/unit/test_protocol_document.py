"""docs/protocol.md against the code: what there is stands in it, and its numbers are the ones in use."""

import re
from pathlib import Path

from shared.errors import all_errors
from shared.jobs import BatchStatus, JobStatus
from shared.kinds import KINDS
from shared.settings import Settings, variable
from shared.web.parameters import Paging

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()

SETTINGS = Settings(
    database_url="postgresql://nowhere/x",
    redis_url="redis://nowhere/0",
    secret="a secret for tests, of 32 bytes or more",  # noqa: S106  # it protects nothing
    ticket_key="a ticket key for tests, of 32 bytes or more",
)


def test_every_error_is_described() -> None:
    described = re.findall(r"^\| `/problems/(\w+)` \| (\d+) \| (.*) \|$", DOCUMENT, re.MULTILINE)
    assert described == [(error.code, str(error.status), error.when) for error in all_errors()]


def test_every_state_and_kind_is_named() -> None:
    for name in (*BatchStatus, *JobStatus, *KINDS):
        assert f"`{name}`" in DOCUMENT or f"**`{name}`**" in DOCUMENT, name


def test_the_sizes_are_the_ones_in_use() -> None:
    units = {"MiB": 2**20, "KiB": 2**10}
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+)(?: (MiB|KiB))?[^|]* \| `(HEADWAY_\w+)` \|$", DOCUMENT, re.MULTILINE)
    said = {name: int(number.replace(",", "")) * units.get(unit, 1) for number, unit, name in rows}
    fields = [field for field in Settings.__struct_fields__ if field.startswith("max_")]
    assert said == {variable(field): getattr(SETTINGS, field) for field in fields}
    assert f"`limit` is {Paging().limit} unless given" in DOCUMENT
