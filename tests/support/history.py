"""What the database held, at every version of a batch, and whether what viewers saw was that.

`record_history(engine)` once, before the batch is created; `History(engine, batch_id).read()` in the end (and before
anything that takes the database back: states that were once read stay); then `check()` for the history itself and
`check_recording()` for each viewer (see viewers.py). All of them raise AssertionError.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from msgspec import Struct, field

from shared import models
from shared.event_ids import LOGS_MAX, Filters, parse_event_id
from shared.jobs import FINAL_BATCH, FINAL_JOB, JOB_TRANSITIONS, JobStatus, batch_progress, contribution
from shared.rows import batch_of, job_of, line_of
from tests.support.sse import JSON, Event, Record, certain

# At the commit, so that it is exactly the committed state, however the change was made; a new batch has its jobs then.
_RECORDER = """
    CREATE TABLE IF NOT EXISTS history (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, batch_id uuid NOT NULL, version bigint NOT NULL,
        epoch text NOT NULL, batch json NOT NULL, jobs json NOT NULL, fresh json NOT NULL, line_count bigint NOT NULL
    );
    CREATE INDEX IF NOT EXISTS ix_history_batch_id ON history (batch_id, version);
    CREATE OR REPLACE FUNCTION record_history() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO history (batch_id, version, epoch, batch, jobs, fresh, line_count) VALUES (
            NEW.id, NEW.version, headway_epoch(), to_json(NEW),
            (SELECT coalesce(json_agg(to_json(j) ORDER BY j.position), '[]') FROM jobs j WHERE j.batch_id = NEW.id),
            (SELECT coalesce(json_agg(to_json(l) ORDER BY l.at, l.job_id, l.n), '[]') FROM log_lines l
                WHERE l.batch_id = NEW.id AND l.version = NEW.version),
            (SELECT count(*) FROM log_lines l WHERE l.batch_id = NEW.id)
        );
        RETURN NULL;
    END $$;
    DROP TRIGGER IF EXISTS record_history ON batches;
    CREATE CONSTRAINT TRIGGER record_history AFTER INSERT OR UPDATE ON batches DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION record_history();
"""

_TIMES = {
    table: {column.name for column in table.columns if isinstance(column.type, sa.DateTime)}
    for table in (models.batches, models.jobs, models.log_lines)
}


class State(Struct, frozen=True, kw_only=True):
    """A batch at one version, in the words of the wire."""

    epoch: str
    version: int
    batch: JSON
    """As far as it is certain."""
    jobs: dict[str, JSON]
    touched: dict[str, int]
    """By job: the version that last touched it."""
    results: frozenset[str] = frozenset()
    """The jobs that have a result."""
    fresh: list[JSON] = field(default_factory=list)
    """The log lines that this version added, oldest first."""
    line_count: int = 0
    """Of all log lines that are stored at this version."""

    @property
    def final(self) -> bool:
        return self.batch["status"] in FINAL_BATCH


class Step(Struct, frozen=True):
    """A transition of one job."""

    old: str
    new: str
    attempt: int


class Past:
    """One reading of a database: the states that led to where it was then."""

    def __init__(self, states: Iterable[State], epoch: str = "", steps: Mapping[str, list[Step]] | None = None) -> None:
        """`epoch`: of the database when it was read. `steps`: what the table of transitions says, by job."""
        self.states = list(states)
        self.by_version = {state.version: state for state in self.states}
        self.epochs = list(dict.fromkeys([*(state.epoch for state in self.states), *([epoch] if epoch else [])]))
        self.steps = steps
        self.lines = [line for state in self.states for line in state.fresh]
        """In the order in which they are told."""

    def stood(self, epoch: str, version: int) -> State | None:
        """The state, if the batch was at that version in that epoch: it may have begun while nothing changed."""
        state, after = self.by_version.get(version), self.by_version.get(version + 1)
        if state is None or epoch not in self.epochs:
            return None
        order = self.epochs.index
        left = after is not None and order(after.epoch) < order(epoch)
        return None if left or order(state.epoch) > order(epoch) else state


class History:
    """All that one batch ever was. Pasts may be given, by those who test this."""

    def __init__(self, engine: sa.Engine | None, batch_id: UUID, pasts: Iterable[Past] = ()) -> None:
        self._engine = engine
        self._batch_id = batch_id
        self.pasts = list(pasts)

    @property
    def last(self) -> State:
        """When it was last read."""
        return self.pasts[-1].states[-1]

    def read(self, engine: sa.Engine | None = None) -> None:
        """Take in what the database (by now perhaps another) holds."""
        engine = engine or self._engine
        assert engine is not None
        table = models.transitions
        parameters = {"id": self._batch_id}
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            # decoding all that ever was takes a while where the machine has much to do
            connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            epoch = connection.execute(sa.text("SELECT headway_epoch()")).scalar_one()
            rows = connection.execute(
                sa.text("SELECT * FROM history h WHERE h.batch_id = :id ORDER BY h.version, h.id"), parameters
            ).all()
            steps = connection.execute(sa.select(table).where(table.c.batch_id == self._batch_id).order_by(table.c.id))
            by_job: dict[str, list[Step]] = defaultdict(list)
            for step in steps:
                if step.job_id is not None:
                    by_job[str(step.job_id)].append(Step(step.old_status, step.new_status, step.attempt))
        self.pasts.append(Past(_states(rows), epoch, by_job))

    def find(self, epoch: str, version: int) -> tuple[Past, State]:
        for past in reversed(self.pasts):
            if state := past.stood(epoch, version):
                return past, state
        raise AssertionError(f"the batch never was at version {version} of epoch {epoch}")

    def check(self) -> None:
        """The history itself is possible: every version once, each job's life and all counters by the rules."""
        for past in self.pasts:
            assert [state.version for state in past.states] == list(range(1, len(past.states) + 1)), "versions"
            for old, new in pairwise(past.states):
                _check_change(old, new)
            for state in past.states:
                _check_counters(state)
            _check_lines(past)
            _check_outcomes(past)


class Connection(Struct):
    """What came over one connection of a viewer."""

    last_id: str
    status: int = 0
    """0: there was no answer."""
    events: list[Event] = field(default_factory=list)


class Recording(Struct):
    """What one viewer asked for and saw."""

    name: str
    filters: Filters = field(default_factory=Filters)
    connections: list[Connection] = field(default_factory=list)
    failure: str = ""
    """What it stumbled over, if anything."""

    def events(self) -> list[Event]:
        return [event for connection in self.connections for event in connection.events]

    def told(self) -> list[str]:
        """The names of all events, in order."""
        return [event.name for event in self.events()]

    def record(self) -> Record:
        """What it has in the end."""
        record = Record()
        for connection in self.connections:
            record.cut()
            for event in connection.events:
                record.take(event)
        return record


ERRORS = frozenset({"overloaded", "draining"})
"""That a viewer may be told, because they pass."""


def check_recording(
    recording: Recording,
    history: History,
    *,
    finished: bool = True,
    resets: Collection[str] = (),
    errors: Collection[str] = ERRORS,
) -> None:
    """What the viewer had at each id was what the database held at that version; each id rose; nothing was told twice.

    `finished`: it has the last version, the batch is final, and the viewer was told that there is no more to come.
    `resets`, `errors`: the reasons and codes that it may have been told.
    """
    assert not recording.failure, f"{recording.name}: {recording.failure}"
    record = Record()
    for connection in recording.connections:
        record.cut()
        assert connection.last_id == record.id, f"{recording.name} asked to go on from another id than its last"
        assert connection.status in {0, 200, 204}, f"{recording.name}: {connection.status} ends an EventSource"
        seen: list[Event] = []
        for event in connection.events:
            before = parse_event_id(record.id)
            record.take(event)
            if event.name == "reset":
                assert event.data["reason"] in resets, f"{recording.name} was told to forget: {event.data}"
            elif event.name == "error":
                assert event.data["code"] in errors, f"{recording.name} was told {event.data}"
            elif event.name in {"log", "progress", "complete"}:
                seen.append(event)
            if event.id is not None:
                if event.name != "reset":
                    since = before.version if before is not None else 0
                    _check_delta(recording, record, seen, since, history)
                seen = []
    if finished:
        assert record.version == history.last.version, f"{recording.name} never came to the end"
        assert record.epoch == history.pasts[-1].epochs[-1]
        assert history.last.final
        assert recording.connections[-1].status == 204, f"{recording.name} was not told that there is no more"


def _check_delta(recording: Recording, record: Record, seen: list[Event], since: int, history: History) -> None:
    """The reader was at version `since`, saw these events, and now has what is in `record`."""
    past, state = history.find(record.epoch, record.version)
    filters, what = recording.filters, f"{recording.name} at version {state.version}, coming from {since}"
    assert certain(record.batch) == state.batch, f"{what}: the batch"
    # untouched jobs are at version 1
    least = 1 if filters.jobs == "changed" else 0
    jobs = {} if filters.jobs == "none" else {key: job for key, job in state.jobs.items() if state.touched[key] > least}
    assert record.jobs == jobs, f"{what}: the jobs, {_difference(record.jobs, jobs)}"
    told = {job["id"] for event in seen for job in event.data.get("jobs", ())}
    changed = {key for key in jobs if state.touched[key] > max(since, least)}
    assert told == changed, f"{what}: told of {len(told)} jobs, {len(changed)} have changed"
    assert (seen[-1].name == "complete") == state.final, f"{what}: {seen[-1].name}"
    _check_told_lines(recording, record, seen, since, past, state)


def _check_told_lines(
    recording: Recording, record: Record, seen: list[Event], since: int, past: Past, state: State
) -> None:
    """Those that came now; the others were looked at when they came. A record never loses or changes one."""
    asked, what = recording.filters.logs, f"{recording.name} at version {state.version}, coming from {since}"
    if not asked:
        assert not record.lines, what
        assert not record.left_out, what
        return
    told = [line for event in seen for line in event.data.get("lines", ())]
    held = (
        past.lines[: state.line_count]
        if since == 0
        else past.lines[past.by_version[since].line_count : state.line_count]
    )
    assert told == held[len(held) - len(told) :], f"{what}: the newest log lines"
    assert len(record.lines) + record.left_out == state.line_count, f"{what}: log lines are missing"
    if state.line_count <= LOGS_MAX:
        assert len(told) == min(len(held), LOGS_MAX if since else asked), f"{what}: lines were left out for no reason"


def _states(rows: Iterable[Any]) -> Iterator[State]:
    wires: dict[str, tuple[JSON, JSON]] = {}
    for row in rows:
        for job in row.jobs:
            if job["id"] not in wires or wires[job["id"]][0] != job:
                wires[job["id"]] = (job, _wire(job_of(_row(models.jobs, job))))
        yield State(
            epoch=row.epoch,
            version=row.version,
            batch=certain(_wire(batch_of(_row(models.batches, row.batch)))),
            jobs={job["id"]: wires[job["id"]][1] for job in row.jobs},
            touched={job["id"]: job["version"] for job in row.jobs},
            results=frozenset(job["id"] for job in row.jobs if job["result"] is not None),
            fresh=[_wire(line_of(_row(models.log_lines, line))) for line in row.fresh],
            line_count=row.line_count,
        )


def _row(table: sa.Table, values: JSON) -> Any:
    times = {name: datetime.fromisoformat(values[name]) for name in _TIMES[table] if values[name] is not None}
    return SimpleNamespace(**values | times)


def _wire(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def _difference(seen: JSON, held: JSON) -> Any:
    return next(((seen.get(key), held.get(key)) for key in seen | held if seen.get(key) != held.get(key)), None)


def _check_counters(state: State) -> None:
    what = f"version {state.version}"
    states = Counter(job["status"] for job in state.jobs.values())
    counts = {status.lower(): states[status] for status in JobStatus} | {"total": len(state.jobs)}
    assert state.batch["counts"] == counts, what
    assert state.batch["version"] == state.version, what
    total = sum(contribution(JobStatus(job["status"]), job["progress"]) for job in state.jobs.values())
    assert state.batch["progress"] == batch_progress(total, len(state.jobs)), what
    assert state.results == {key for key, job in state.jobs.items() if job["status"] == "COMPLETED"}, what
    assert state.final == (state.batch["finishedAt"] is not None), what
    assert not (state.final and state.batch["open"]), what


def _check_change(old: State, new: State) -> None:
    assert old.jobs.keys() <= new.jobs.keys()
    assert new.batch["open"] <= old.batch["open"], f"version {new.version}: it was closed before"
    retried = False
    appended = [job for key, job in new.jobs.items() if key not in old.jobs]
    if appended:
        what = f"version {new.version}: jobs that came later"
        assert old.batch["open"], what
        assert not old.batch["cancelRequested"], what
        assert sorted(job["position"] for job in appended) == list(range(len(old.jobs), len(new.jobs))), what
        assert {(job["status"], job["attempt"], job["progress"]) for job in appended} == {("QUEUED", 0, 0)}, what
        assert {new.touched[job["id"]] for job in appended} == {new.version}, what
    for key, job in new.jobs.items():
        if key not in old.jobs:
            continue
        was, what = old.jobs[key], f"job {job['position']} at version {new.version}"
        if was == job:
            assert new.touched[key] in {old.touched[key], new.version}, what
            continue
        assert new.touched[key] == new.version, f"{what} was changed, and nobody will know"
        before, after = JobStatus(was["status"]), JobStatus(job["status"])
        assert before is after or after in JOB_TRANSITIONS[before], f"{what}: {before} to {after}"
        assert before is not after or after not in FINAL_JOB, f"{what} had ended"
        started = (before, after) == (JobStatus.QUEUED, JobStatus.PROCESSING)
        assert job["attempt"] == was["attempt"] + started, what
        assert job["progress"] >= was["progress"], f"{what}: its progress fell"
        retried = retried or (before in FINAL_JOB and after not in FINAL_JOB)
    fell = new.batch["progress"] < old.batch["progress"]
    assert retried or appended or not fell, "the progress of the batch fell"
    assert retried or not old.final, "a finished batch was changed"


def _check_lines(past: Past) -> None:
    last: Counter[str] = Counter()
    stored = 0
    before = past.states[0]
    for state in past.states:
        stored += len(state.fresh)
        assert state.line_count == stored, f"version {state.version}: lines came or went without a version"
        for line in sorted(state.fresh, key=lambda line: (line["jobId"], line["n"])):
            last[line["jobId"]] += 1
            assert line["n"] == last[line["jobId"]], f"version {state.version}: the lines of a job have a gap"
            # whoever said it still had the job
            was, now = before.jobs[line["jobId"]], state.jobs[line["jobId"]]
            assert was["status"] == "PROCESSING", f"version {state.version}: a line of a job that did not run"
            assert was["attempt"] == line["attempt"] == now["attempt"], f"version {state.version}: a late line"
        before = state


def _check_outcomes(past: Past) -> None:
    """Each job's transitions are what it went through, and no job completed twice."""
    lives: dict[str, list[Step]] = defaultdict(list)
    for old, new in pairwise(past.states):
        for key, job in new.jobs.items():
            was = old.jobs[key]["status"] if key in old.jobs else "QUEUED"
            if was != job["status"]:
                lives[key].append(Step(was, job["status"], job["attempt"]))
    for key, steps in lives.items():
        completed = [step for step in steps if step.new == "COMPLETED"]
        assert len(completed) <= 1, f"job {key} completed {len(completed)} times"
    if past.steps is not None:
        assert lives == past.steps, "the transitions are not what happened"


def record_history(engine: sa.Engine, *, of: str | None = None) -> None:
    """From now on every committed version of every batch in this database is kept, or of one owner's.

    Each with all jobs: of a batch of a thousand that is too much.
    """
    recorder = _RECORDER
    if of is not None:
        recorder = recorder.replace("FOR EACH ROW EXECUTE", f"FOR EACH ROW WHEN (NEW.owner = '{of}') EXECUTE")
    with engine.begin() as connection:
        connection.exec_driver_sql(recorder)
