"""Watching in a terminal: one bar for the batch and one for each job that runs, under the log."""

import itertools
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from infra.cli.words import STATES, counts_words, end, job_words, line_words, plain

if TYPE_CHECKING:
    from infra.cli.follow import Follower

_COLOURS = {"phase": "blue", "success": "green", "warn": "yellow", "error": "red"}
_BELOW = 6
"""Lines of the terminal that are not for jobs."""
_PER_SECOND = 8


def show(follower: "Follower") -> None:
    """Raises Lost."""
    console = Console(highlight=False)
    trouble = ""
    with Live(console=console, refresh_per_second=_PER_SECOND, transient=True) as live:
        for change in follower.changes():
            state = follower.state
            if isinstance(change, str):
                trouble = change
            else:
                trouble = ""
                for line in change.lines:
                    live.console.print(Text(line_words(line, state.jobs), style=_COLOURS.get(line["level"], "")))
                for job in change.jobs.values():
                    if job["status"] == "FAILED":
                        live.console.print(Text(job_words(job), style="red"))
            if state.batch:
                live.update(_picture(follower, console.height - _BELOW, trouble))
    console.print(escape(end(follower.state.batch)))


def _picture(follower: "Follower", room: int, trouble: str) -> Group:
    batch = follower.state.batch
    running = [job for job in follower.state.jobs.values() if job["status"] == "PROCESSING"]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(max_width=40, no_wrap=True)
    grid.add_column(width=30)
    grid.add_column(justify="right", width=5)
    grid.add_column(no_wrap=True)
    words = f"{STATES[batch['status']]}, {counts_words(batch)}"
    grid.add_row(Text(plain(batch["title"]), "bold"), _bar(batch["progress"]), f"{batch['progress']} %", Text(words))
    for job in itertools.islice(running, max(1, room)):
        said = " ".join(filter(None, (job["step"], job["message"])))
        grid.add_row(Text(plain(job["name"])), _bar(job["progress"]), f"{job['progress']} %", Text(plain(said), "dim"))
    more = len(running) - max(1, room)
    notes = [Text(f"and {more} more", "dim")] if more > 0 else []
    notes += [Text(trouble, "yellow")] if trouble else []
    return Group(grid, *notes)


def _bar(percent: int) -> ProgressBar:
    return ProgressBar(total=100, completed=percent, width=30, complete_style="blue", finished_style="green")
