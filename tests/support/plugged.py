"""Packages with a plug-in, as an installer leaves them: for real processes, which have no handlers of a test's own."""

import os
from pathlib import Path
from textwrap import dedent

_KINDS = """
from msgspec import Struct
from shared.kinds.kind import Kind
from shared.kinds.plugin import Plugin

class Nothing(Struct):
    pass

KIND = Kind(name="{kind}", title="", params=Nothing, time_limit={time_limit}, max_attempts=2, backoff=(0, 0))
PLUGIN = Plugin(kind=KIND, handler="{package}.handlers:{handler}")
"""


def install(place: Path, project: str, groups: dict[str, dict[str, str]]) -> dict[str, str]:
    """Tells of the entry points of a project in `place`. What finds it there, as variables of an environment."""
    told = place / f"{project}-1.0.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in points.items()) for group, points in groups.items()
    ]
    (told / "entry_points.txt").write_text("".join(lines))
    return {"PYTHONPATH": os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])}


def plugged(place: Path, kind: str, handler: str, source: str, *, time_limit: float = 600) -> dict[str, str]:
    """A package with one kind, whose handler is so called in `source`; as `install`."""
    package = kind.replace(".", "_dot_").replace("-", "_dash_")
    (place / package).mkdir(parents=True)
    kinds = _KINDS.format(kind=kind, time_limit=time_limit, package=package, handler=handler)
    (place / package / "__init__.py").touch()
    (place / package / "kinds.py").write_text(kinds)
    (place / package / "handlers.py").write_text(dedent(source))
    return install(place, package, {"headway.handlers": {kind: f"{package}.kinds:PLUGIN"}})
