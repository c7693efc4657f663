"""Nothing in the repository may say where one machine gets its packages or keeps its files: a checkout has to work the
same behind a company's mirror, on a laptop and in CI.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from infra.ci import files

# In parts, so that this file does not contain what it refuses. A name stands for its subdomains too.
INDEX_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("snapshot", "debian", "org"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("crates", "io"),
        ("repo", "maven", "apache", "org"),
        ("maven", "org"),
    )
)
INDEX_HOST = re.compile(
    r"(?<![\w-])(?:" + "|".join(re.escape(host) for host in INDEX_HOSTS) + r")(?![\w-]|\.\w)",
    re.IGNORECASE,
)

# A path starts where no word, variable or other path ends: `/api/home/x` and `$BASE/home/x` are not meant.
PATH_START = r"(?:(?<=file://)|(?<![\w.~$})\]/-]))"
HOME = re.compile(PATH_START + r"(?:/(?:home|Users)/[\w.-]+|/root(?=/\w|/\.)|[A-Za-z]:\\{1,2}Users[\\/]{1,2}\w)")


def problems(root: Path) -> Iterator[str]:
    refused = {"the host of a package index": INDEX_HOST, "a path of one machine": HOME}
    place = root.resolve()
    if len(place.parts) > 2:  # noqa: PLR2004 - "/" and one name, such as /app, is a path that images really use
        refused["the path of this checkout"] = re.compile(PATH_START + re.escape(str(place)) + r"(?![\w-])")
    for name in files.committable(root):
        for number, line in files.lines(root / name):
            for what, pattern in refused.items():
                if found := pattern.search(line):
                    yield f"{name}:{number}: {what}: {found[0]}"
