"""The state of a batch follows from its counters."""

import pytest

from shared.jobs import BatchStatus, Counts, JobStatus, batch_progress, batch_status, contribution


@pytest.mark.parametrize(
    ("counts", "facts", "status"),
    [
        (Counts(total=0), {"still_open": True}, "QUEUED"),
        (Counts(total=0), {}, "COMPLETED"),
        (Counts(total=0), {"cancel_requested": True}, "CANCELLED"),
        (Counts(completed=3, total=3), {"started": True, "still_open": True}, "PROCESSING"),
        (Counts(completed=3, total=3), {"started": True, "still_open": True, "paused": True}, "PAUSED"),
        (Counts(cancelled=3, total=3), {"still_open": True}, "QUEUED"),
        (Counts(queued=3, total=3), {}, "QUEUED"),
        (Counts(queued=3, total=3), {"started": True}, "PROCESSING"),  # all wait for their next attempt
        (Counts(queued=2, processing=1, total=3), {"started": True}, "PROCESSING"),
        (Counts(queued=3, total=3), {"paused": True}, "PAUSED"),
        (Counts(queued=2, processing=1, total=3), {"started": True, "paused": True}, "PAUSED"),
        (Counts(completed=3, total=3), {"started": True, "paused": True}, "COMPLETED"),
        (Counts(completed=3, total=3), {"started": True}, "COMPLETED"),
        (Counts(completed=3, total=3), {"started": True, "failed_items": 1}, "PARTIAL"),
        (Counts(completed=2, failed=1, total=3), {"started": True}, "PARTIAL"),
        (Counts(completed=2, cancelled=1, total=3), {"started": True}, "PARTIAL"),
        (Counts(failed=3, total=3), {"started": True}, "FAILED"),
        (Counts(failed=2, cancelled=1, total=3), {"started": True}, "FAILED"),
        (Counts(cancelled=3, total=3), {}, "CANCELLED"),
        (Counts(completed=2, cancelled=1, total=3), {"started": True, "cancel_requested": True}, "CANCELLED"),
        (Counts(processing=1, cancelled=2, total=3), {"started": True, "cancel_requested": True}, "PROCESSING"),
    ],
)
def test_batch_status(counts: Counts, facts: dict[str, bool | int], status: str) -> None:
    usual = {"started": False, "paused": False, "cancel_requested": False, "failed_items": 0}
    assert batch_status(counts, **usual | facts) is BatchStatus(status)  # type: ignore[arg-type]


def test_progress_is_the_floor_of_the_mean_and_final_jobs_count_whole() -> None:
    jobs = [(JobStatus.COMPLETED, 100), (JobStatus.FAILED, 40), (JobStatus.PROCESSING, 99)]
    assert batch_progress(sum(contribution(*job) for job in jobs), len(jobs)) == 99
    assert batch_progress(0, 0) == 0
