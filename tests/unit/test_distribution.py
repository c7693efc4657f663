"""What an image knows of the code that was copied into it."""

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_code_that_was_copied_has_the_version_of_pyproject(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "headway"\nversion = "12.3.4"\n')
    program = ROOT / "infra" / "images" / "distribution.py"
    code = tmp_path / "app"
    code.mkdir()
    subprocess.run([sys.executable, "-I", "-S", str(program), str(project), str(code)], check=True, timeout=60)
    assert [found.version for found in distributions(name="headway", path=[str(code)])] == ["12.3.4"]


def test_every_image_is_told_it() -> None:
    """Before the stages part, from a file that the engine is sent."""
    base = (ROOT / "Dockerfile").read_text().partition(" AS base\n")[2].partition("\nFROM ")[0]
    assert "RUN python3 infra/images/distribution.py pyproject.toml /app\n" in base
    assert "!pyproject.toml" in (ROOT / ".dockerignore").read_text().splitlines()
