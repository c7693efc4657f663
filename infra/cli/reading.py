"""What a reader of one batch knows. State is consistent only at an event id, which only the last of a delta carries."""

from typing import Any

from infra.cli.sse import Event

Json = dict[str, Any]


class Change:
    """What one delta brought."""

    def __init__(self) -> None:
        self.jobs: dict[str, Json] = {}
        self.lines: list[Json] = []
        self.left_out = 0
        """Older log lines that the server did not send."""


class Reading:
    """Keeps jobs by id; of log lines only the last number for each job, which is enough to know what is new."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.batch: Json = {}
        self.jobs: dict[str, Json] = {}
        self.last_lines: dict[str, int] = {}
        self.complete = False
        self._unfinished: list[Event] = []

    def restart(self) -> None:
        """A connection begins: what the last one left unfinished comes again."""
        self._unfinished = []

    def take(self, event: Event) -> Change | None:
        """What can be seen now; None while a delta is unfinished, and for events that bring nothing to see."""
        if event.name == "reset":
            self._forget()
            self.id = event.id
            return None
        if event.name not in {"progress", "log", "complete"}:
            return None
        if self._is_refresh(event):
            names = ("waiting", "etaSeconds", "etaLow", "etaHigh")
            self.batch |= {name: event.data[name] for name in names if name in event.data}
            return Change()
        self._unfinished.append(event)
        if event.id is None:
            return None
        change = Change()
        for part in self._unfinished:
            self._apply(part, change)
        self._unfinished = []
        self.id = event.id
        return change

    def _is_refresh(self, event: Event) -> bool:
        """Between deltas the server may send new estimates."""
        between = bool(self.batch) and not self._unfinished
        return between and event.id is None and event.name == "progress" and not event.data.get("jobs")

    def _forget(self) -> None:
        self.batch, self.jobs, self.last_lines = {}, {}, {}
        self.complete = False
        self._unfinished = []

    def _apply(self, event: Event, change: Change) -> None:
        if event.name == "log":
            if event.data["truncated"]:
                change.left_out += event.data["truncated"]["count"]
            for line in event.data["lines"]:
                if line["n"] > self.last_lines.get(line["jobId"], 0):
                    self.last_lines[line["jobId"]] = line["n"]
                    change.lines.append(line)
            return
        self.batch = {name: value for name, value in event.data.items() if name != "jobs"}
        changed = {job["id"]: job for job in event.data.get("jobs") or ()}
        self.jobs |= changed
        change.jobs |= changed
        self.complete = event.name == "complete"
