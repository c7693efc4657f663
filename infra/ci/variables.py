"""Settings are named in documents, recipes and manifests: each has to exist, and manifests set what has no default."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from infra.ci import files
from shared.settings import REQUIRED, variables

_NAMED = re.compile(r"\bHEADWAY_[A-Z][A-Z_]*")

# `NAME=x`, `- NAME=x`, `ENV NAME=x`, `NAME: x`, `"NAME": "x"`, `- name: NAME`
_SET = re.compile(r"""^\s*(?:-\s+)?(?:(?:export|ENV)\s+)?(?:name:\s+)?["']?([A-Z][A-Z_]*)["']?\s*(?:[:=#]|$)""")

_MANIFEST = re.compile(r"^(infra/[^/]+)/.*(?:\.ya?ml|\.env|\.json|\.toml)$|^(compose)\b[\w.-]*\.ya?ml$")
"""Images are none: what they set are defaults."""

_TESTS = "tests/"
"""They say what is wrong, too."""


def problems(root: Path) -> Iterator[str]:
    known = variables()
    given: dict[str, set[str]] = defaultdict(set)
    """By folder of `infra`, or `compose`: all files of one describe one installation."""
    for name in files.committable(root):
        if name.startswith(_TESTS):
            continue
        manifest = _MANIFEST.match(name)
        for number, line in files.lines(root / name):
            for variable in _NAMED.findall(line):
                if variable not in known:
                    yield f"{name}:{number}: there is no setting {variable}"
            found = _SET.match(line)
            if manifest and found and found[1] in known:
                given[manifest[1] or manifest[2]].add(found[1])
    for folder, names in given.items():
        for alternatives in REQUIRED:
            if not names.intersection(alternatives):
                yield f"{folder}: services start there, and nothing sets {' or '.join(alternatives)}"
