"""docs/operations.md against the code, both ways: settings and their defaults, errors, Redis names, numbers."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import FieldInfo

from infra.workers import crew
from services.api import resources
from services.stream import app as stream
from services.worker import housekeeping, process
from services.worker.values import CHECKPOINT, METADATA, RESULT
from shared import channels, creation, database
from shared.errors import all_errors
from shared.events import ErrorCode
from shared.settings import COMMAND_ONLY, REQUIRED, Settings, variable
from shared.web import health
from tests.support.documents import OPERATIONS

ROOT = Path(__file__).parents[2]
COUNTS = {"HEADWAY_MAX_LINES", "HEADWAY_MAX_ARTIFACTS"}
SECONDS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86_400}
BYTES = {"KiB": 2**10, "MiB": 2**20}
FIELDS = {variable(field.name): field for field in msgspec.structs.fields(Settings)}
DESCRIBED = {row[0].strip("`"): row[1:] for row in OPERATIONS.rows("Settings")}

by_field = pytest.mark.parametrize("name", FIELDS)


def default(field: FieldInfo) -> object:
    """As a document can show it."""
    if field.required:
        return "required"
    return str(field.default) if isinstance(field.default, Path) else field.default or None


def shown(text: str) -> object:
    """The value for which a default in the document stands."""
    if found := re.fullmatch(r"([\d,]+)(?: (\w+))?", text):
        return int(found[1].replace(",", "")) * (SECONDS | BYTES | {None: 1})[found[2]]
    return None if text == "none" else text.strip("`")


def test_every_setting_is_described_and_there_are_no_others() -> None:
    assert DESCRIBED.keys() == FIELDS.keys() | COMMAND_ONLY


def test_what_has_no_default_is_known_to_the_rule_for_manifests() -> None:
    assert {name for name, field in FIELDS.items() if field.required} <= {names[0] for names in REQUIRED}


@by_field
def test_its_default_is_the_one_in_use(name: str) -> None:
    assert shown(DESCRIBED[name][0]) == default(FIELDS[name])


@by_field
def test_times_and_sizes_have_a_unit_and_choices_are_listed(name: str) -> None:
    field, (given, text) = FIELDS[name], DESCRIBED[name]
    kind = get_args(field.type)[0] if get_origin(field.type) is not None else field.type
    unit = given.rpartition(" ")[2]
    assert (unit in SECONDS) == (float in (kind, *get_args(field.type)))
    sized = name == "HEADWAY_BUFFER" or (name.startswith("HEADWAY_MAX_") and name not in COUNTS)
    assert (unit in BYTES) == sized
    for choice in get_args(field.type) if isinstance(kind, str) else ():
        assert f"`{choice}`" in text, choice


def test_every_error_of_requests_is_described() -> None:
    described = [tuple(row[:3]) for row in OPERATIONS.rows("Of requests")]
    assert described == [(f"`{error.code}`", str(error.status), error.title) for error in all_errors()]


def test_every_error_of_streams_is_described() -> None:
    assert OPERATIONS.keys("Of streams") == list(get_args(ErrorCode))


def test_every_error_of_jobs_is_described_and_there_are_no_others() -> None:
    files = [*(ROOT / "services" / "worker").rglob("*.py"), ROOT / "shared" / "updates.py"]
    files += [ROOT / "shared" / "containers.py", *(ROOT / "shared" / "kit").glob("*.py")]
    files += [ROOT / "services" / "api" / "report.py"]
    raised = {code for file in files for code in codes(ast.parse(file.read_text()))}
    raised |= {code for form in (RESULT, METADATA, CHECKPOINT) for code in (form.unencodable, form.too_large)}
    assert set(OPERATIONS.keys("Of jobs")) == raised


def codes(tree: ast.Module) -> Iterator[str]:
    """Codes of failures: in `Failure("…", …)`, `Fatal(…, code="…")`, a parameter's default, `code = "…"`."""
    for node in ast.walk(tree):
        values: list[ast.expr | None] = []
        match node:
            case ast.Call(func=ast.Name("Failure"), args=[first, *_]):
                values = [first]
            case ast.Call(keywords=keywords):
                values = [keyword.value for keyword in keywords if keyword.arg == "code"]
            case ast.FunctionDef(args=ast.arguments(kwonlyargs=names, kw_defaults=defaults)):
                values = [value for name, value in zip(names, defaults, strict=True) if name.arg == "code"]
            case ast.Assign(targets=[ast.Name("code")], value=ast.IfExp(body=one, orelse=other)):
                values = [one, other]
            case ast.Assign(targets=[ast.Name("code")], value=value):
                values = [value]
        yield from (value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str))


def test_every_redis_name_is_described() -> None:
    id_ = UUID(int=0)
    made = {
        channels.batch_channel("", id_).replace(str(id_), "<id>"),
        channels.owner_channel("", "anna").replace("anna", "<sub>"),
        channels.viewers_key("", "anna").replace("anna", "<sub>"),
        channels.broker_namespace(""),
    }
    dramatiqs = channels.broker_namespace("")
    described = {dramatiqs if name.startswith(f"{dramatiqs}:") else name for name in OPERATIONS.keys("Redis")}
    listed = re.findall(r"^\| `(headway:[^`]+)`", channels.__doc__ or "", re.MULTILINE)
    assert described == made
    assert {name.removesuffix(":*") for name in listed} == made


def test_every_part_that_tells_of_an_outage_is_described_and_there_are_no_others() -> None:
    files = [file for folder in ("shared", "services") for file in (ROOT / folder).rglob("*.py")]
    made = {
        made for file in files for made in re.findall(r'Outage\((?:"(\w+)"|part\.name), "([^"]+)"\)', file.read_text())
    }
    described, server = set(), ""
    for line in OPERATIONS.section("What the log says of it").splitlines():
        cells = line.strip("|").split(" | ")
        if line.startswith("| ") and len(cells) > 1:
            server = next(iter(re.findall(r"`(\w+) is away`", cells[0])), server)
            described |= {("" if part == "health" else server, part) for part in re.findall(r"`([^`]+)`", cells[1])}
    assert described - {("", "part")} == made


CONNECTING = database._ARGUMENTS["connect_timeout"]
SENTENCES = [
    f"PostgreSQL answers within {health.PATIENCE:.0f} s",
    f"costs no attempt | both, and {crew.OVERTIME:.0f} s |",
    f"| api | {resources.CONNECTIONS} for requests, 1 for health, 1 for metrics |",
    f"| stream | {stream._CONNECTIONS} for all viewers together, 1 for health |",
    f"an `Idempotency-Key` | {creation.IDEMPOTENCY_TTL / 3600:.0f} h |",
    f"Workers look once {({60: 'a minute'})[housekeeping._PERIOD]}.",
    f"| worker | {process.CONNECTIONS} |",
    f"503 after {resources.PATIENCE + CONNECTING:.0f} s at most, {resources.PATIENCE:.0f} for a statement",
    f"and {CONNECTING} for a connection, if no more than {resources.THREADS} come at once",
    f"waits for up to {resources.DELETION / 60:.0f} min",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_its_numbers_are_the_ones_in_use(sentence: str) -> None:
    assert sentence in OPERATIONS.text
