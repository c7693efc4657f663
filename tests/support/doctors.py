"""What `headway doctor` says, taken apart."""

import re
import subprocess
from pathlib import Path

from tests.support.gateways import Gateway
from tests.support.running import headway


class Seen:
    """What was said: checks by their names, with what was found."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.text = done.stdout + done.stderr
        self.failed: dict[str, str] = {}
        for check in re.split(r"(?m)^  (?=[✓✗-])", done.stdout)[1:]:
            if check.startswith("✗ FAILED: "):
                name, _, found = check.removeprefix("✗ FAILED: ").partition(": ")
                self.failed[name] = found

    def expect(self, *found: tuple[str, str, str]) -> None:
        """Exactly these failed: the beginning of each, and words of how it was seen and of what to change."""
        assert self.status == 1, self.text
        assert len(self.failed) == len(found), self.text
        for beginning, seen, change in found:
            (said,) = [said for name, said in self.failed.items() if name.startswith(beginning)] or [self.text]
            assert seen in said.partition("seen:")[2].partition("change:")[0], said
            assert change in said.partition("change:")[2], said

    def expect_well(self) -> None:
        assert self.status == 0, self.text
        assert re.search(r"All \d+ checks passed", self.text), self.text


def look(address: str, tmp_path: Path, *more: str, **variables: str) -> Seen:
    return Seen(headway(tmp_path / "nowhere", "doctor", address, *more, seconds=60, **variables))


def look_behind(gateway: Gateway, tmp_path: Path, *more: str) -> Seen:
    return look(gateway.address, tmp_path, *more, SSL_CERT_FILE=str(gateway.trust))
