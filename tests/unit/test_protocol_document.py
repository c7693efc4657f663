"""docs/protocol.md against the code: what there is stands in it, and its numbers are the ones in use."""

import re
from pathlib import Path
from typing import get_args

from services.stream.session import (
    MESSAGES_AT_ONCE,
    MESSAGES_PER_SECOND,
    MISTAKES_MAX,
    SUBSCRIPTIONS_MAX,
    Close,
)
from services.stream.websocket import AUTH_SECONDS
from shared.errors import all_errors
from shared.events import SocketErrorCode
from shared.jobs import BatchStatus, JobStatus
from shared.kinds import KINDS
from shared.settings import Settings, variable
from shared.web.parameters import Paging
from shared.web.sockets import FRAMES_PER_SECOND

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


def test_what_a_websocket_says_at_its_end_is_described() -> None:
    section = DOCUMENT.partition("\n## WebSocket\n")[2].partition("\n## ")[0]
    rows = [line for line in section.split("\n") if line.startswith("|")]
    codes = {code for row in rows for code in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert set(get_args(SocketErrorCode)) <= codes
    closes = {int(code) for row in rows for code in re.findall(r"\b(\d{4})\b", row.split("|")[1])}
    ours = {code for name, code in vars(Close).items() if not name.startswith("_")}
    assert closes == ours | {1002, 1003, 1007, 1009}
    for limit in (SUBSCRIPTIONS_MAX, MESSAGES_PER_SECOND, MESSAGES_AT_ONCE, MISTAKES_MAX, FRAMES_PER_SECOND):
        assert re.search(rf"\b{limit}\b", section), limit
    assert f"within {AUTH_SECONDS:g}\nseconds" in section


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
