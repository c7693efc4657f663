"""Watching where the output is a file or a pipe: a line for what matters."""

import sys
from typing import TYPE_CHECKING

from infra.cli.words import counts_words, end, job_words, line_words

if TYPE_CHECKING:
    from infra.cli.follow import Follower

_STEP = 5
"""Percent between two lines about the batch."""


def show(follower: "Follower") -> None:
    """Raises Lost."""
    seen: dict[str, str] = {}
    said, why = -_STEP, None
    for change in follower.changes():
        if isinstance(change, str):
            sys.stderr.write(f"{change}\n")
            continue
        state = follower.state
        for line in change.lines:
            if line["level"] in {"warn", "error"}:
                print(line_words(line, state.jobs))
        for job in change.jobs.values():
            if job["status"] != seen.get(job["id"]) and job["status"] in {"FAILED", "CANCELLED"}:
                print(job_words(job))
            seen[job["id"]] = job["status"]
        waits = (state.batch.get("waiting") or {}).get("reason")
        if (state.batch["progress"] >= said + _STEP or waits != why) and not state.complete:
            said, why = state.batch["progress"], waits
            print(f"{state.batch['progress']:3d} %, {counts_words(state.batch)}")
        sys.stdout.flush()
    print(end(follower.state.batch), flush=True)
