"""The quick way to read a submission says what the thorough one says, or nothing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.plain import read_plain, read_plain_jobs
from services.api.submission import BatchFields, Submission, read_more_jobs, read_submission
from shared.events import stamp
from shared.kinds.rehearsal import REHEARSAL
from shared.settings import Settings
from tests.support.web import rehearsal

SETTINGS = Settings(
    database_url="postgresql://h/d",
    redis_url="redis://h",
    secret="a secret for tests, of 32 bytes or more",  # noqa: S106  # it protects nothing
    ticket_key="a ticket key for tests, of 32 bytes or more",
    uploads=Path(),
    max_params=100,
    max_metadata=100,
)
AHEAD = stamp(datetime.now(UTC) + timedelta(days=300))
FAR = stamp(datetime.now(UTC) + timedelta(days=400))
UPLOAD = "0199a1b2-0000-7000-8000-00000000000a"


def encoded(body: Any) -> bytes:
    return msgspec.json.encode(body)


def told(submission: Submission) -> Any:
    """All of it that is stored or refused, the parameters as what they mean."""
    assert submission.fields is not None
    jobs = [(job.name, msgspec.json.decode(job.params)) for job in submission.jobs]
    fields = {name: getattr(submission.fields, name) for name in BatchFields.__struct_fields__ if name != "jobs"}
    return submission.kind, fields, jobs, submission.uploads, submission.errors, submission.after


def photos(*uploads: Any) -> dict[str, Any]:
    jobs = [{"name": f"{number}.jpg", "params": {"uploadId": upload}} for number, upload in enumerate(uploads)]
    return {"kind": "photos.inventory", "title": "rooms", "jobs": jobs}


@pytest.mark.parametrize(
    "body",
    [
        encoded(rehearsal(3)),
        encoded(rehearsal(2, {"steps": 3, "failure": "crash", "failAtStep": None}, priority=-5, concurrency=2)),
        encoded(rehearsal(1, metadata={"a": [1, {"b": None}]}) | {"title": "Küche \\ \n\t"}),
        encoded(photos(UPLOAD, UPLOAD.upper())),
        encoded(rehearsal(1, open=True)),
        encoded(rehearsal(0, open=True)),
        encoded({"kind": "rehearsal", "title": "t", "open": True}),
        encoded(rehearsal(1, after=UPLOAD, afterAny=True, runAfter="2001-02-03T04:05:06.7+05:30", expiresAt=AHEAD)),
        encoded(rehearsal(1, after=None, runAfter=AHEAD, expiresAt=None)),
        b'{"kind": "rehearsal", "title": "t", "jobs": [{"params": {"steps" : 2,\n"steps":3}, "name": "\\u00e4\\\\"}]}',
    ],
)
def test_what_is_right_is_read_at_once_and_the_same(body: bytes) -> None:
    plain = read_plain(body, SETTINGS)

    assert plain is not None
    assert told(plain) == told(read_submission(body, SETTINGS))
    assert plain.errors == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"kind": "rehearsal"',
        b'{"kind": "rehearsal", "title": "\xff", "jobs": [{"name": "a", "params": {}}]}',
        b'{"kind": "rehearsal", "title": "t", "jobs": [{"name": "a", "params": {"steps": "\xff"}}]}',
        b'{"kind": "rehearsal", "title": "t", "jobs": [{"name": "a", "params": {"steps": 1e999}}]}',
        b'{"kind": "rehearsal", "title": "t", "jobs": [{"name": "a", "params": %b}]}' % (b"[" * 9999 + b"]" * 9999),
        encoded(rehearsal(1, {"steps": 0})),
        encoded(rehearsal(1, {"stepps": 1})),
        encoded(rehearsal(1, kind="unknown")),
        encoded(rehearsal(1, more=1)),
        encoded(rehearsal(1, priority=101)),
        encoded(rehearsal(0)),
        encoded({"kind": "rehearsal", "title": "t"}),
        encoded({"kind": "rehearsal", "title": "t", "open": False}),
        encoded(rehearsal(1, open=None)),
        encoded(rehearsal(1, runAfter="2001-02-03T04:05:06")),
        encoded(rehearsal(1, runAfter=FAR)),
        encoded(rehearsal(1, expiresAt=FAR)),
        encoded(rehearsal(1, expiresAt="2001-02-03T04:05:06Z")),
        encoded(rehearsal(1, after="no id")),
        encoded(rehearsal(1, run_after=AHEAD)),
        encoded(rehearsal(1) | {"title": "a\0b"}),
        encoded(rehearsal(1) | {"title": "x" * 201}),
        encoded(rehearsal(1) | {"metadata": {"a": "x" * 101}}),
        encoded(rehearsal(1) | {"metadata": None}),
        encoded({"kind": "rehearsal", "title": "t", "jobs": [{"name": "a\0", "params": {}}]}),
        encoded({"kind": "rehearsal", "title": "t", "jobs": [{"name": "a", "params": {}, "id": 1}]}),
        encoded({"kind": "rehearsal", "title": "t", "jobs": [{"name": "a"}]}),
        encoded(photos("no id")),
        b'{"kind": "rehearsal", "title": "t", "jobs": [{"name": "a", "params": {"steps": %b1}}]}' % (b" " * 200),
    ],
)
def test_what_is_wrong_or_unusual_is_left_to_a_closer_look(body: bytes) -> None:
    assert read_plain(body, SETTINGS) is None


@pytest.mark.parametrize("value", [{}, rehearsal(0), rehearsal(2, {"steps": 2}), rehearsal(1, {"steps": 0}), []])
def test_jobs_that_are_added_are_read_alike(value: Any) -> None:
    body = encoded({"jobs": value["jobs"]} if value and "jobs" in value else value)
    thorough, plain = read_more_jobs(body, REHEARSAL, SETTINGS), read_plain_jobs(body, REHEARSAL, SETTINGS)

    assert (plain is None) == bool(thorough.errors)
    if plain is not None:
        assert [(job.name, job.params) for job in plain.jobs] == [(job.name, job.params) for job in thorough.jobs]


@given(
    st.dictionaries(st.sampled_from(["steps", "stepMs", "failure", "failAtStep", "other"]), st.one_of(
        st.integers(-1, 20), st.none(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3),
        st.sampled_from(["fatal", "hang"]),
    ))
)  # fmt: skip
def test_it_never_lets_pass_what_the_closer_look_refuses(params: dict[str, Any]) -> None:
    body = encoded(rehearsal(2, params))
    thorough = read_submission(body, SETTINGS)

    plain = read_plain(body, SETTINGS)

    if plain is not None:
        assert not thorough.errors
        assert told(plain) == told(thorough)
