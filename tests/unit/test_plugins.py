"""Kinds of other packages: what is wrong with one is said in a sentence that names it, and stops the start."""

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from msgspec import Struct, structs

from services.worker import table
from shared.kinds import KINDS, PLUGINS
from shared.kinds.kind import Kind
from shared.kinds.plugin import GROUP, Plugin, PluginError, load_plugins
from shared.settings import Settings
from tests.support.plugged import plugged

ROOT = Path(__file__).parents[2]


class Params(Struct):
    pages: int = 1


class Undescribed(Struct):
    what: Path


KIND = Kind(name="pages.print", title="Print", params=Params, queue="printers")
GOOD = Plugin(kind=KIND, handler="json:dumps")
NO_KIND = "pages.print"
OTHER_NAME = Plugin(kind=structs.replace(KIND, name="pages.copy"), handler="json:dumps")
BAD_NAME = Plugin(kind=structs.replace(KIND, name="Pages!"), handler="json:dumps")
BAD_QUEUE = Plugin(kind=structs.replace(KIND, queue="a:b"), handler="json:dumps")
BAD_PLACE = Plugin(kind=KIND, handler="json.dumps")
BAD_LIMITS = Plugin(kind=structs.replace(KIND, max_attempts=0), handler="json:dumps")
NO_RATE = Plugin(kind=structs.replace(KIND, rate=0), handler="json:dumps")
MUCH_AT_ONCE = Plugin(kind=structs.replace(KIND, concurrency=2**31), handler="json:dumps")
BAD_PARAMS = Plugin(kind=structs.replace(KIND, params=Undescribed), handler="json:dumps")


def point(attribute: str, name: str = KIND.name) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{attribute}", GROUP)


def test_a_kind_is_added() -> None:
    assert load_plugins({}, [point("GOOD")]) == {"pages.print": GOOD}


@pytest.mark.parametrize(
    ("attribute", "name", "told"),
    [
        ("MISSING", KIND.name, "cannot be loaded: AttributeError"),
        ("NO_KIND", KIND.name, "is no Plugin"),
        ("OTHER_NAME", KIND.name, "its kind is called pages.copy"),
        ("BAD_NAME", "Pages!", "a kind's name is made of"),
        ("BAD_QUEUE", KIND.name, "a queue's name is made of"),
        ("BAD_PLACE", KIND.name, "module:name, not as json.dumps"),
        ("BAD_LIMITS", KIND.name, "make no sense"),
        ("NO_RATE", KIND.name, "more than 0, and 1000000 at most"),
        ("MUCH_AT_ONCE", KIND.name, "more than 0, and 1000000 at most"),
        ("BAD_PARAMS", KIND.name, "its parameters cannot be described"),
    ],
)
def test_what_is_wrong_with_one_is_said(attribute: str, name: str, told: str) -> None:
    with pytest.raises(PluginError) as caught:
        load_plugins({}, [point(attribute, name)])
    assert str(caught.value).startswith(f"The plug-in {name} (entry point of headway.handlers) cannot be ")
    assert told in str(caught.value)


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(PluginError, match=r"rehearsal .* there is a kind of that name already"):
        load_plugins(KINDS, [point("GOOD", "rehearsal")])
    with pytest.raises(PluginError, match=r"pages\.print .* there is a kind of that name already"):
        load_plugins({}, [point("GOOD"), point("GOOD")])


def test_a_handler_is_imported_only_where_its_queue_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(database_url="postgresql:///", redis_url="redis://", secret="s" * 32, ticket_key="t" * 32)
    monkeypatch.setitem(PLUGINS, KIND.name, Plugin(kind=KIND, handler="no_such_module:print"))
    assert set(table.make_handlers(settings, "default")) == {"rehearsal"}
    with pytest.raises(PluginError, match=r"The plug-in pages\.print cannot be used: no_such_module:print: Module"):
        table.make_handlers(settings, "printers")
    monkeypatch.setitem(PLUGINS, KIND.name, Plugin(kind=KIND, handler="sys:path"))
    with pytest.raises(PluginError, match="is no handler"):
        table.make_handlers(settings, "printers")
    monkeypatch.setitem(PLUGINS, KIND.name, GOOD)
    assert set(table.make_handlers(settings, "printers")) == {"pages.print"}


def test_kinds_whose_parameters_are_called_alike_are_described_apart(tmp_path: Path) -> None:
    kinds = ("pages.print", "pages-print", "pages_print", "ink.buy")
    places = [str(tmp_path / kind) for kind in kinds]
    for kind, place in zip(kinds, places, strict=True):
        plugged(Path(place), kind, "handle", "def handle(params, job):\n    yield")
    script = "from services.api.openapi import DOCUMENT; print(DOCUMENT.decode())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*places, str(ROOT)])},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not done.stderr
    document = json.loads(done.stdout)
    body = document["paths"]["/api/batches"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    described = {kind: body["discriminator"]["mapping"][kind].rpartition("/")[2] for kind in kinds}
    assert len(set(described.values())) == len(kinds)
    for kind, name in described.items():
        assert document["components"]["schemas"][name]["properties"]["kind"]["enum"] == [kind]


@pytest.mark.parametrize("module", ["services.api", "services.worker"])
def test_a_broken_one_stops_the_start_with_one_sentence(tmp_path: Path, module: str) -> None:
    (tmp_path / "pages.py").write_text("raise ImportError('no ink')\n")
    told = tmp_path / "pages-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: pages\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[headway.handlers]\npages.print = pages:PRINT\n")
    done = subprocess.run(
        [sys.executable, "-m", module, *(["--queue", "default"] if module == "services.worker" else [])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "The plug-in pages.print of the package pages (entry point of headway.handlers) cannot be loaded: "
        "ImportError: no ink\n"
    )
