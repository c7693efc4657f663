"""What must hold for the events of any stream."""

import re
from collections import Counter
from itertools import pairwise
from typing import Any

from infra.cli.smoketest.checks import expect, same
from infra.cli.smoketest.recording import Recording

_ID = re.compile(r"[A-Za-z0-9._~-]{1,32}")
_ORDER = ("log", "progress", "complete")


def check_snapshot(recording: Recording, batch_id: str, jobs: int) -> None:
    snapshot = next(recording.deltas())
    last = snapshot[-1]
    expect(last.id, "it has no id")
    expect(_ID.fullmatch(last.id or ""), f"its id is {last.id!r}")
    same(last.data["batchId"], batch_id, "batchId")
    found = [job["position"] for event in snapshot if event.name == "progress" for job in event.data["jobs"]]
    same(sorted(found), list(range(jobs)), "the positions of its jobs")


def check_order(recording: Recording) -> None:
    for delta in recording.deltas():
        names = [event.name for event in delta]
        expect(set(names) <= set(_ORDER), f"there is an event of another kind among {names}")
        same(names, sorted(names, key=_ORDER.index), "the order of a delta")
        expect(names.count("complete") <= 1, f"`complete` comes twice in {names}")
        expect(delta[-1].id, f"the delta {names} ends without an id")
    twice = [event_id for event_id, times in Counter(recording.ids()).items() if times > 1]
    expect(not twice, f"ids come twice: {twice}")
    same([event.name for event in recording.events].count("complete"), 1, "the number of `complete`")


def check_monotone(recording: Recording) -> None:
    batches = [delta[-1].data for delta in recording.deltas()]
    for before, after in pairwise(batches):
        expect(before["version"] < after["version"], f"version {after['version']} follows {before['version']}")
        expect(before["progress"] <= after["progress"], f"{after['progress']} % follows {before['progress']} %")
    for batch in batches:
        counts = dict(batch["counts"])
        total = counts.pop("total")
        same(sum(counts.values()), total, f"the sum of the counters at version {batch['version']}")
    expect(len({batch["progress"] for batch in batches}) > 2, "no progress was seen on the way")  # noqa: PLR2004 - 0 and 100
    jobs: dict[str, dict[str, Any]] = {}
    for event in recording.events:
        for job in event.data.get("jobs") or () if event.name in _ORDER else ():
            old = jobs.get(job["id"], job)
            name = job["name"]
            expect(old["attempt"] <= job["attempt"], f"attempt {job['attempt']} of {name} follows {old['attempt']}")
            expect(old["progress"] <= job["progress"], f"{name} falls from {old['progress']} % to {job['progress']} %")
            jobs[job["id"]] = job


def check_lines(recording: Recording, jobs: int) -> None:
    numbers: dict[str, list[int]] = {}
    for event in recording.events:
        if event.name == "log":
            same(event.data["truncated"], None, "truncated")
            for line in event.data["lines"]:
                numbers.setdefault(line["jobId"], []).append(line["n"])
    same(len(numbers), jobs, "the number of jobs that said something")
    for job, found in numbers.items():
        same(found, list(range(1, len(found) + 1)), f"the numbers of the lines of job {job}")
