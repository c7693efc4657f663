"""The recorder of histories keeps what was committed, and finds a change that goes past the rule of versions."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from shared import models
from shared.settings import Settings
from tests.support.history import History, record_history
from tests.support.writer import Writer


@pytest.fixture
def writer(engine: sa.Engine, settings: Settings) -> Iterator[Writer]:
    record_history(engine)
    writer = Writer(engine, settings, 3)
    yield writer
    writer.close()


def read(writer: Writer) -> History:
    history = History(writer.engine, writer.batch_id)
    history.read()
    return history


def test_every_version_is_kept_as_it_was(writer: Writer) -> None:
    truth = [writer.state()]
    for step in (
        lambda: writer.start(0, 1),
        lambda: writer.progress(0, 40, lines=2),
        lambda: writer.give_back(1),
        lambda: writer.finish(0, lines=1),
        writer.cancel,
    ):
        step()
        truth.append(writer.state())
    with writer.engine.connect() as connection:
        connection.execute(sa.update(models.batches).values(version=77))
        connection.rollback()

    history = read(writer)
    history.check()
    assert len(history.pasts[0].states) == len(truth)
    for state, held in zip(history.pasts[0].states, truth, strict=True):
        assert state.batch.items() <= held["batch"].items()
        assert state.jobs == held["jobs"]
        assert state.line_count == len(held["lines"])
    assert {(line["jobId"], line["n"]): line for line in history.pasts[0].lines} == truth[-1]["lines"]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE jobs SET message = 'psst'", "nobody will know"),
        (
            "UPDATE jobs SET status = 'COMPLETED', progress = 100, result = '1', version = 4 WHERE position = 2",
            "QUEUED to COMPLETED",
        ),
        ("UPDATE batches SET completed = completed + 1", "versions"),
        ("UPDATE batches SET version = version + 2", "versions"),
        ("DELETE FROM log_lines WHERE n = 1", "without a version"),
        ("DELETE FROM transitions WHERE new_status = 'PROCESSING'", "transitions"),
    ],
)
def test_what_goes_past_the_rules_is_found(writer: Writer, statement: str, found: str) -> None:
    writer.start(0)
    writer.progress(0, 40, lines=2)
    with writer.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    writer.progress(0, 60)
    with pytest.raises(AssertionError, match=found):
        read(writer).check()
