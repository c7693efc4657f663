"""Our documents as tests read them: sections by their headings, and the tables in them."""

import re
from pathlib import Path

_FOLDER = Path(__file__).parents[2] / "docs"


class Document:
    def __init__(self, name: str) -> None:
        self.text = (_FOLDER / name).read_text()

    def section(self, title: str) -> str:
        """What stands below a heading, up to the next one of its level or a higher one."""
        heading = re.search(rf"^(#+) {re.escape(title)}\n", self.text, re.MULTILINE)
        assert heading, f"there is no heading {title}"
        return re.split(rf"^#{{1,{len(heading[1])}}} ", self.text[heading.end() :], flags=re.MULTILINE)[0]

    def rows(self, title: str) -> list[list[str]]:
        """The rows of a section's tables that begin with something in backticks, cell by cell."""
        lines = [line for line in self.section(title).splitlines() if line.startswith("| `")]
        return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]

    def keys(self, title: str) -> list[str]:
        """What those rows begin with."""
        return [row[0].strip("`") for row in self.rows(title)]


OPERATIONS = Document("operations.md")
