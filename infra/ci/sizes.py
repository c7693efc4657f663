"""Large files stay in a repository's history for ever, so each is a decision."""

from collections.abc import Iterator
from pathlib import Path

from infra.ci import files

LIMIT_BYTES = 1024 * 1024
# Path: why it has to be here.
ALLOWED: dict[str, str] = {}


def problems(root: Path) -> Iterator[str]:
    for name in files.committable(root):
        size = (root / name).lstat().st_size
        if size > LIMIT_BYTES and name not in ALLOWED:
            yield f"{name}: {size:,} bytes, above {LIMIT_BYTES:,}; if it has to be here, list it in infra/ci/sizes.py"
