"""SIGKILL for each process in turn, while a batch runs and is watched."""

from pathlib import Path

import pytest

from shared.settings import Settings
from tests.support.ordeal import ordeal

pytestmark = pytest.mark.timeout(300)  # twenty seconds, but on a machine that is busy otherwise


def test_whatever_is_killed_comes_back_and_nobody_is_told_anything_wrong(settings: Settings, tmp_path: Path) -> None:
    with ordeal(settings, tmp_path, own_postgres=True, with_api=True, retried=False) as batch:
        whole = batch.whole
        (worker, other_worker), (stream, other_stream) = whole.workers, whole.streams
        for part in (worker, stream, whole.valkey, other_stream, whole.postgres, whole.api, other_worker):
            batch.gets_on()
            part.kill()
            part.start()
        batch.gets_on()
        batch.verdict(expired=True)
