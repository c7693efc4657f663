"""The list of packages in THIRD-PARTY-NOTICES.md, made from the requirement files and the metadata of what is
installed. `python -m infra.ci.notices` renews it. What metadata cannot tell stands in the same file, written by hand,
outside the two marks.
"""

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from infra.ci import pins

FILE = "THIRD-PARTY-NOTICES.md"
LIST = re.compile(r"(?<=<!-- list: renewed by `make notices` -->\n).*(?=<!-- end of list -->)", re.DOTALL)

# Requirement files of what we ship as images. Others are `run`, for one's own machine, and `dev`.
IMAGES = ("api", "worker", "stream", "migrate", "cli")

# Their metadata does not say, says it in prose, or is not there on every platform and Python that we support.
BY_HAND = {
    "async-timeout": "Apache-2.0",
    "jinja2": "BSD-3-Clause",
    "colorama": "BSD-3-Clause",
    "numpy": "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
    "pysocks": "BSD-3-Clause",
    "pywin32": "PSF-2.0",
    "rich-click": "MIT",
    "swagger-ui-py": "Apache-2.0",
    "tzdata": "Apache-2.0",
    "uvloop": "MIT OR Apache-2.0",
}
# How older metadata names a licence: its SPDX expression.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
KNOWN = re.compile(r"(?:0BSD|Apache|BSD|CC0|ISC|LGPL|MIT|MPL|PSF|Zlib)[\w.-]*(?: (?:AND|OR) \w[\w.-]*)*")


class UnknownLicence(Exception):
    """The message names the package and says what to do."""


def licence(package: str) -> str:
    """SPDX expression. Raises `UnknownLicence` when neither metadata nor this file tells."""
    if package in BY_HAND:
        return BY_HAND[package]
    try:
        about = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        raise UnknownLicence(f"{package} is not installed here; add it to BY_HAND") from None
    fields = ("License-Expression", "License", "Classifier")
    said: list[str] = [text for field in fields for text in about.get_all(field) or []]
    for text in said:
        name = text.removeprefix("License :: ").removeprefix("OSI Approved :: ")
        expression = SPDX.get(name, name)
        if KNOWN.fullmatch(expression):
            return expression
    raise UnknownLicence(f"the metadata of {package} names no licence; add it to BY_HAND")


def table(root: Path) -> str:
    """One row a package, by name. Raises `UnknownLicence`."""
    holders = {path.stem: {package for package, _ in pins.pinned(path)} for path in (root / pins.FOLDER).glob("*.txt")}
    rows = ["| Package | Licence | Used by |", "|---|---|---|"]
    for package in sorted(holders[pins.WHOLE]):
        images = ", ".join(image for image in IMAGES if package in holders[image])
        optional = "tracing" if package in holders.get("tracing", ()) else "development"
        elsewhere = "`make run`" if package in holders["run"] else optional
        rows.append(f"| {package} | {licence(package)} | {images or elsewhere} |")
    return "\n".join(rows) + "\n"


def renewed(root: Path) -> str:
    """The whole file as it should be. Raises `UnknownLicence`."""
    fresh = table(root)
    return LIST.sub(lambda _: fresh, (root / FILE).read_text())


def problems(root: Path) -> Iterator[str]:
    try:
        stale = renewed(root) != (root / FILE).read_text()
    except UnknownLicence as error:
        yield f"{FILE}: {error}"
    else:
        if stale:
            yield f"{FILE}: not what the requirement files and the installed packages say; run `make notices`"


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[2]
    (here / FILE).write_text(renewed(here))
