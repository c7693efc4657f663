"""Test processes that run side by side are never given the same port."""

import socket
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from infra.embedded import ports
from tests.support.ports import own_port


def six_free_ones() -> range:
    """In a row; tests that run beside this one have servers of their own."""
    for _ in range(100):
        few = range(ports._CHOICE.start + Random().randrange(10_000), ports._CHOICE.stop)[:6]  # noqa: S311
        try:
            for port in few:
                with socket.socket() as trial:
                    trial.bind(("127.0.0.1", port))
        except OSError:
            continue
        return few
    raise AssertionError("there are no six free ports in a row")


def test_a_port_is_given_once_in_all_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = six_free_ones()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(ports, "_CHOICE", few)
    code = (
        f"import sys; from infra.embedded import ports; ports._CHOICE = {few!r}\n"
        "from tests.support.ports import own_port; print(own_port(), own_port(), flush=True); sys.stdin.read()"
    )
    ours = {own_port(), own_port()}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=-1, stdout=-1, text=True, env={"TMPDIR": str(tmp_path)}
    ) as other:
        assert other.stdout is not None
        theirs = {int(port) for port in other.stdout.readline().split()}
        ours |= {own_port(), own_port()}
        assert len(ours) == 4
        assert len(theirs) == 2
        assert ours | theirs == set(few)
        with pytest.raises(AssertionError):
            own_port()
        other.communicate("", timeout=20)
    assert {own_port(), own_port()} == theirs, "whoever has ended holds nothing"
