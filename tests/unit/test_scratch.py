"""Directories of workers: one that lives keeps its own, and what others left goes."""

import os
import stat
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.worker.scratch import Scratch


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """What a worker left that was killed."""
    directory = tmp_path / "headway-worker-abcdefgh"
    (directory / "job").mkdir(parents=True)
    (directory / "job" / "page").write_text("one")
    (directory / "job").chmod(0o500)
    return directory


def test_a_sweep_removes_what_the_dead_left_and_nothing_else(tmp_path: Path, left: Path) -> None:
    living, ours = Scratch(tmp_path), Scratch(tmp_path)
    living.open()
    place = living.place(uuid4(), 1)
    place.mkdir()
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "headway-worker-link").symlink_to(precious)
    (tmp_path / "headway-worker-file").touch()
    (tmp_path / "other").mkdir()
    ours.open()
    ours.sweep()
    assert not left.exists()
    assert place.exists()
    assert precious.exists()
    assert (tmp_path / "other").exists()
    living.close()
    ours.close()
    assert not place.exists()


def test_each_attempt_has_a_place_of_its_own(tmp_path: Path) -> None:
    scratch, job = Scratch(tmp_path), uuid4()
    scratch.open()
    first, second = scratch.place(job, 1), scratch.place(job, 2)
    assert first != second
    scratch.remove(first)  # that it was never made is no failure
    scratch.close()


@pytest.mark.parametrize("by", ["somebody else's tidying", "a program that still writes there"])
def test_where_it_stands_is_left_as_it_is(tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = Scratch(tmp_path)
    scratch.open()
    tmp_path.chmod(0o755)
    if by == "somebody else's tidying":
        scratch.root.rmdir()
    else:
        removed = os.rmdir

        def late(path: Any, **options: Any) -> None:
            if Path(path) == scratch.root and not (scratch.root / "late").exists():
                (scratch.root / "late").touch()
            removed(path, **options)

        monkeypatch.setattr(os, "rmdir", late)
    scratch.close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    scratch.close()  # once more is nothing


def test_what_a_link_leads_to_is_not_removed(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.open()
    place = scratch.place(uuid4(), 1)
    place.mkdir()
    target = tmp_path / "file"
    target.write_text("stays")
    (place / "link").symlink_to(target)
    scratch.remove(place)
    assert not place.exists()
    assert target.read_text() == "stays"
    scratch.close()
