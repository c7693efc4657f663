"""`make detector`: what comes from npm, and that a failure leaves everything as it was."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.detector.build import build
from infra.detector.check import problems
from infra.detector.errors import BuildError
from infra.detector.npm import Package, fetch
from tests.support.detector import detector_path
from tests.support.onnx_models import save_model, yolo

NPM = """
import shutil, sys
assert sys.argv[1:3] == ["pack", "@some/model@1.0.0"], sys.argv
assert "--ignore-scripts" in sys.argv
"""


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a program of that name before all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def place(does: str) -> None:
        (folder / "npm.py").write_text(NPM + does)
        (folder / "npm").write_text(f"""#!/bin/sh\nexec '{sys.executable}' '{folder / "npm.py"}' "$@"\n""")
        (folder / "npm").chmod(0o755)

    return place


def tarball(path: Path, files: Mapping[str, bytes]) -> Package:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    digest = b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return Package("@some/model", "1.0.0", f"sha512-{digest}")


def test_members_of_the_package_are_read(npm: Any, tmp_path: Path) -> None:
    package = tarball(
        tmp_path / "p.tgz", {"package/a.json": b"{}", "package/b.bin": b"\1\2", "package/c": b"not asked for"}
    )
    npm(f"shutil.copy({str(tmp_path / 'p.tgz')!r}, 'some-model-1.0.0.tgz')")
    assert fetch(package, ("a.json", "b.bin")) == {"a.json": b"{}", "b.bin": b"\1\2"}


def test_another_package_than_ours_is_refused(npm: Any, tmp_path: Path) -> None:
    package = tarball(tmp_path / "p.tgz", {"package/a": b"what we know"})
    tarball(tmp_path / "p.tgz", {"package/a": b"what somebody else put there"})
    npm(f"shutil.copy({str(tmp_path / 'p.tgz')!r}, 'some-model-1.0.0.tgz')")
    with pytest.raises(BuildError, match="is not what it should be") as caught:
        fetch(package, ("a",))
    assert package.integrity in str(caught.value)


@pytest.mark.parametrize("files", [{"package/b": b""}, {"elsewhere/a": b""}])
def test_a_package_without_the_file_is_refused(npm: Any, tmp_path: Path, files: dict[str, bytes]) -> None:
    package = tarball(tmp_path / "p.tgz", files)
    npm(f"shutil.copy({str(tmp_path / 'p.tgz')!r}, 'some-model-1.0.0.tgz')")
    with pytest.raises(BuildError, match=r"there is no a in @some/model@1\.0\.0"):
        fetch(package, ("a",))


def test_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="npm is needed"):
        fetch(Package("@some/model", "1.0.0", ""), ("a",))


@pytest.mark.parametrize("mark", ["error", "ERR!"])
def test_no_network(npm: Any, mark: str) -> None:
    lines = ["code ENOTFOUND", "syscall getaddrinfo", "request to far away failed", "a hint"]
    npm("sys.exit({!r})".format("\n".join(f"npm {mark} {line}" for line in lines)))
    with pytest.raises(BuildError, match=r"is there a network\? It said: request to far away failed$"):
        fetch(Package("@some/model", "1.0.0", ""), ("a",))


def test_a_good_detector_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = detector_path()
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no npm, nor is one missed
    before, told = real.stat(), list[str]()
    build(real, say=told.append)
    assert real.stat().st_mtime_ns == before.st_mtime_ns
    assert told == [f"detector: {real} is there and works"]


@pytest.mark.parametrize("content", [b"", b"half a download", None])
def test_a_failed_build_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    output = tmp_path / "home" / "detector.onnx"
    output.parent.mkdir()
    if content is not None:
        output.write_bytes(content)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="npm is needed"):
        build(output, say=lambda _: None)
    assert [file.name for file in output.parent.iterdir()] == ([] if content is None else ["detector.onnx"])
    assert content is None or output.read_bytes() == content


def test_a_model_that_sees_nothing_does_not_pass(tmp_path: Path) -> None:
    blind = save_model(tmp_path / "blind.onnx", yolo())
    assert list(problems(blind)) == [
        "on living_room.jpg it does not see chair, tv",
        "on kitchen_appliances.jpg it does not see microwave, oven, refrigerator",
        "on kitchen_cooking.jpg it does not see bowl, person",
        "on street.jpg it does not see car, person, traffic light",
    ]


def test_the_real_detector_passes() -> None:
    assert list(problems(detector_path())) == []


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PATH": str(tmp_path), "HEADWAY_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "infra.detector"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "detector: npm is needed to fetch the model, and there is none here; it comes with Node.js\n"
    assert not (tmp_path / "home").exists()
