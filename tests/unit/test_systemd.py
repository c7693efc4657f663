"""The units: systemd understands them, and they fit the services."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import REQUIRED, Settings, load_settings
from tests.support.needs import program

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "infra" / "systemd"
SERVICES = ("headway-migrate.service", "headway-api.service", "headway-stream@8001.service", "headway-worker.service")

LEAVING = 15
"""Seconds beyond drain and cancel that a worker may take (docs/operations.md)."""

EXPOSURE = 20
"""Of 100, the most that `systemd-analyze security` may give."""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """As on a host, with this checkout as /opt/headway."""
    here = tmp_path / "units"
    shutil.copytree(UNITS, here)
    (tmp_path / "headway").symlink_to(ROOT)  # whose own path may hold a space, and /opt/headway does not
    (tmp_path / "python").symlink_to(sys.executable)
    for file in here.rglob("*"):
        if file.is_file():
            text = file.read_text().replace("/opt/headway/.venv/bin/python", str(tmp_path / "python"))
            file.write_text(text.replace("/opt/headway", str(tmp_path / "headway")))
    return here


def test_systemd_understands_them(installed: Path) -> None:
    command = [program("systemd-analyze"), "verify", "--man=no", *(str(installed / name) for name in SERVICES)]
    command.append(str(installed / "headway.target"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    ours = [line for line in done.stderr.splitlines() if "headway" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_they_may_do_little(service: str, installed: Path) -> None:
    command = [program("systemd-analyze"), "security", "--offline=true", f"--threshold={EXPOSURE}"]
    done = subprocess.run([*command, str(installed / service)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


@pytest.mark.parametrize("service", ["headway-api.service", "headway-stream@.service", "headway-worker.service"])
def test_they_are_given_the_time_to_leave(service: str) -> None:
    text = (UNITS / service).read_text()
    defaults = Settings(database_url="", redis_url="", ticket_key="")
    needed = defaults.drain_grace
    if "worker" in service:
        needed += defaults.cancel_grace + LEAVING
        assert "KillMode=mixed" in text, "the processes that the first one started would be told twice"
    found = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > needed
    assert re.search(r"^Wants=.*headway-migrate\.service", text, re.MULTILINE)
    assert re.search(r"^After=.*headway-migrate\.service", text, re.MULTILINE)


def test_the_example_lacks_the_keys_and_nothing_else() -> None:
    names = ("headway.env", "keys.env")
    common, keys = (dict(re.findall(r"^(\w+)=(.*)$", (UNITS / name).read_text(), re.MULTILINE)) for name in names)
    assert keys == {"HEADWAY_SECRET": "", "HEADWAY_TICKET_KEY": ""}
    assert all(common.values())
    for alternatives in REQUIRED:
        assert set(alternatives) & (set(common) | set(keys))
    with_keys = {
        unit.name for unit in UNITS.glob("*.service") if "EnvironmentFile=/etc/headway/keys.env" in unit.read_text()
    }
    assert with_keys == {"headway-api.service", "headway-stream@.service"}
    chosen = {name: value for name, value in common.items() if name != "HEADWAY_UPLOADS"}
    load_settings(chosen, keys=False)
    load_settings(chosen | dict.fromkeys(keys, "k" * 32))
