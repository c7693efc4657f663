"""The browser client's own tests, which need node and nothing else."""

import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent / "client"


@pytest.mark.parametrize("file", sorted(TESTS.glob("*.test.mjs")), ids=lambda path: path.name)
def test_the_client(node: str, file: Path) -> None:
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "\n# fail 0\n" in done.stdout
    assert "\n# pass 0\n" not in done.stdout
