"""docs/protocol.md against the code: what there is stands in it, and its numbers are the ones in use."""

import re
from pathlib import Path

import pytest
from litestar import Litestar

from services.api.app import create_app
from shared import errors
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


@pytest.fixture(scope="module")
def api() -> Litestar:
    return create_app(SETTINGS)


def test_every_address_is_described(api: Litestar) -> None:
    for route in api.routes:
        path = re.sub(r"\{\w+:uuid\}", "{id}", route.path)
        for method in getattr(route, "methods", set()) - {"OPTIONS", "HEAD"}:
            if not path.startswith("/static"):
                assert f"`{method} {path}" in DOCUMENT, (method, path)


def test_every_error_is_described() -> None:
    def leaves(error: type[errors.HeadwayError]) -> list[type[errors.HeadwayError]]:
        return [error, *(leaf for kind in error.__subclasses__() for leaf in leaves(kind))]

    described = set(re.findall(r"^\| `/problems/(\w+)` \| (\d+) \|", DOCUMENT, re.MULTILINE))
    assert described == {(error.code, str(error.status)) for error in leaves(errors.HeadwayError)}


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
