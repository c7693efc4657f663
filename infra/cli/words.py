"""Batches, jobs and log lines in words, for a terminal."""

import json
import re
from datetime import datetime
from typing import Any

Json = dict[str, Any]

STATES = {
    "QUEUED": "waiting",
    "PROCESSING": "running",
    "PAUSED": "paused",
    "COMPLETED": "completed",
    "PARTIAL": "completed in part",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
}

# A terminal obeys these: what others wrote must not move our cursor or set our title.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    return _CONTROL.sub(" ", text)


def counts_words(batch: Json) -> str:
    counts = batch["counts"]
    parts = [f"{counts['completed']} of {counts['total']}{' so far' if batch.get('open') else ''} done"]
    parts += [f"{counts[name]} {name}" for name in ("failed", "cancelled") if counts[name]]
    parts += [f"{counts['processing']} running"] if counts["processing"] else []
    parts += filter(None, [waiting_words(batch)])
    idle = batch.get("open") and not counts["queued"] and not counts["processing"]
    parts += ["waiting for more jobs"] if idle else []
    return ", ".join(parts)


def waiting_words(batch: Json) -> str:
    """Why nothing more of it is started; empty if there is nothing to say."""
    waiting = batch.get("waiting") or {}
    until = datetime.fromisoformat(waiting["until"]).astimezone() if waiting.get("until") else None
    at = f" until {until:%Y-%m-%d %H:%M:%S}" if until else ""
    match waiting.get("reason"):
        case "no_worker":
            return "no worker is there to start its jobs"
        case "behind":
            ahead = waiting.get("ahead")
            jobs = "1 job" if ahead == 1 else f"{ahead} jobs"
            return (f"{jobs} ahead in the queue" if ahead else "all workers are busy") + at
        case "delayed":
            return ("begins when another batch has ended" if waiting.get("after") else "nothing is to start") + at
        case "limited":
            return f"as many jobs as allowed are running{at}"
        case _:  # paused, which its status says; or one of a later server
            return ""


def job_words(job: Json) -> str:
    why = f": {job['error']['message']}" if job["error"] else ""
    attempt = f" at attempt {job['attempt']}" if job["attempt"] > 1 else ""
    return plain(f"{job['name']} {STATES[job['status']]}{attempt}{why}")


def line_words(line: Json, jobs: dict[str, Json]) -> str:
    name = jobs[line["jobId"]]["name"] if line["jobId"] in jobs else line["jobId"]
    at = datetime.fromisoformat(line["at"]).astimezone()
    return plain(f"{at:%H:%M:%S} {line['level']:<7} {name}: {line['text']}")


def step_words(step: Json, jobs: dict[str, Json]) -> str:
    """One step of a batch's history; `jobs` by id."""
    name = "the batch" if step["jobId"] is None else jobs[step["jobId"]]["name"]
    attempt = f" at attempt {step['attempt']}" if step["attempt"] else ""
    old = f"{STATES[step['from']]} → " if step["from"] else ""
    at = datetime.fromisoformat(step["at"]).astimezone()
    return plain(f"{at:%Y-%m-%d %H:%M:%S} {name}: {old}{STATES[step['to']]}{attempt} ({step['reason']})")


def end(batch: Json) -> str:
    summary = f"\n{json.dumps(batch['summary'], indent=2, ensure_ascii=True)}" if batch["summary"] is not None else ""
    return f"{STATES[batch['status']]}: {counts_words(batch)}{summary}"
