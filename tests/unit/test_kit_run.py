"""`run`: a command's lines, its end, and that nothing of it is left. With real commands."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.kit import run
from shared.kit.commands import LONGEST
from shared.updates import Fatal, JobError, Log, Progress, Update
from tests.support.batches import wait_for
from tests.support.handlers import LEAVES, driven, lives


def texts(said: list[Update]) -> list[str]:
    return [update.text for update in said if isinstance(update, Log)]


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_each_line_of_both_outputs_is_a_line_of_the_log() -> None:
    said, status = driven(run(shell("echo one; echo two >&2; printf three")))
    assert (texts(said), status) == (["one", "two", "three"], 0)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (r"a\377b\n", ["a\N{REPLACEMENT CHARACTER}b"]),
        (r"10%%\r50%%\rdone\n", ["done"]),
        (r"windows\r\n", ["windows"]),
        (r"\n\n", ["", ""]),
        ("", []),
    ],
)
def test_lines_are_what_a_terminal_would_show(printed: str, expected: list[str]) -> None:
    said, _ = driven(run(["printf", printed]))
    assert texts(said) == expected


def test_a_line_without_an_end_is_cut_and_what_follows_is_there() -> None:
    said, _ = driven(run(shell("head -c 5000000 /dev/zero | tr '\\0' x; echo; echo after")))
    assert [len(text) for text in texts(said)] == [LONGEST, 5]


def test_a_status_other_than_0_fails_unless_it_is_asked_for() -> None:
    assert driven(run(shell("exit 3"), check=False)) == ([], 3)
    assert driven(run(shell("kill -TERM $$"), check=False)) == ([], -signal.SIGTERM)
    with pytest.raises(JobError, match=r"^sh ended with status 3: no such page$") as caught:
        driven(run(shell("echo no such page; exit 3")))
    assert caught.value.code == "command_failed"
    with pytest.raises(JobError, match=r"^sh was ended by SIGTERM$"):
        driven(run(shell("kill -TERM $$")))


def test_lines_may_become_progress_or_nothing() -> None:
    def percent(line: str) -> Update | None:
        return Progress(float(line)) if line.isdigit() else None

    assert driven(run(shell("echo 10; echo hm; echo 20"), each=percent)) == ([Progress(10.0), Progress(20.0)], 0)


def test_a_command_that_cannot_be_started_is_not_tried_again(tmp_path: Path) -> None:
    for command, place in ((["no-such-command"], "/"), ([str(tmp_path)], "/"), (["true"], "/nowhere"), (["a\0b"], "/")):
        with pytest.raises(Fatal) as caught:
            driven(run(command, cwd=place))
        assert caught.value.code == "command_not_started"


def test_a_line_for_a_shell_is_no_command() -> None:
    with pytest.raises(TypeError, match="no shell"):
        driven(run("echo hello"))


def test_the_environment_is_what_is_given_and_no_key_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:password@db/headway")
    monkeypatch.setenv("HEADWAY_SECRET", "s" * 32)
    monkeypatch.setenv("LC_TIME", "de_DE.UTF-8")
    said, _ = driven(run(["env"], env={"PAGES": "7"}))
    found = dict(text.split("=", 1) for text in texts(said))
    assert (found["PAGES"], found["LC_TIME"], found["PATH"]) == ("7", "de_DE.UTF-8", os.environ["PATH"])
    assert not {"DATABASE_URL", "HEADWAY_SECRET"} & set(found)
    assert texts(driven(run(["pwd"], cwd=tmp_path))[0]) == [str(tmp_path)]


@pytest.mark.parametrize("then", ["sleep 300", "trap '' TERM; sleep 300 & wait"], ids=["polite", "deaf to SIGTERM"])
def test_closing_ends_a_silent_command_and_all_that_it_started(then: str) -> None:
    generator = run(shell(LEAVES.format(then=then)), grace=0.2)
    processes = [int(text) for text in texts(_said(generator, 3))]
    assert all(map(lives, processes))
    assert next(generator) is None, "while it is silent there is a moment to end it"
    generator.close()
    assert not any(map(lives, processes))


def test_a_command_that_is_told_to_end_may_say_why() -> None:
    """Not to the log any more, but its files are in order."""
    generator = run(shell("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"), grace=30)
    _said(generator, 1)
    begun = time.monotonic()
    generator.close()
    assert time.monotonic() - begun < 20, "it was not waited for to the end of its grace"


def test_what_a_command_leaves_in_the_background_ends_with_it() -> None:
    said, status = driven(run(shell(LEAVES.format(then="exit 0"))))
    assert status == 0
    assert not any(lives(int(text)) for text in texts(said))


def test_a_command_that_closes_its_output_is_waited_for() -> None:
    assert driven(run(shell("exec >&- 2>&-; sleep 0.3; exit 4"), check=False)) == ([], 4)


def test_commands_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import sys
from shared.kit import run
for update in run(["sh", "-c", {LEAVES.format(then="sleep 300")!r}]):
    if update is not None:
        print(update.text, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        processes = [int(victim.stdout.readline()) for _ in range(3)]
        assert all(map(lives, processes))
        victim.kill()
    wait_for(lambda: not any(map(lives, processes)), "what the command started to end")


def test_a_guard_that_was_killed_is_replaced() -> None:
    first, _ = driven(run(shell("echo one")))
    killed = _guards()
    for guard in killed:
        os.kill(guard, signal.SIGKILL)
    wait_for(lambda: not any(map(lives, killed)), "the guard to be gone")
    second, _ = driven(run(shell("echo two")))
    assert texts(first + second) == ["one", "two"]
    assert len([guard for guard in _guards() if lives(guard)]) == 1


def _guards() -> list[int]:
    children = [child for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()]
    commands = {int(child): Path(f"/proc/{child}/cmdline") for child in children}
    return [child for child, command in commands.items() if command.exists() and b"guard.py" in command.read_bytes()]


def _said(generator: Iterator[Update | None], count: int) -> list[Update]:
    said: list[Update] = []
    while len(said) < count:
        update = next(generator)
        if update is not None:
            said.append(update)
    return said
