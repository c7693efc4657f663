"""Both stream processes restarted in turn under load, politely and not: viewers go to the other, and miss nothing."""

from pathlib import Path

import pytest

from shared.settings import Settings
from tests.support.installation import Service
from tests.support.memory import peak
from tests.support.ordeal import ordeal

pytestmark = pytest.mark.timeout(300)  # half a minute, but on a machine that is busy otherwise


def leaves(stream: Service) -> None:
    assert stream.stop() == 0


def is_killed(stream: Service) -> None:
    stream.kill()


def test_replicas_restarted_in_turn_lose_nobody_anything(settings: Settings, tmp_path: Path) -> None:
    with ordeal(settings, tmp_path, jobs=240, lasting=5) as batch:
        first, second = batch.whole.streams
        peaks = []
        for ends in ((leaves, leaves), (is_killed, is_killed), (leaves, is_killed)):
            most = 0
            for stream, end in zip((first, second), ends, strict=True):
                batch.gets_on()
                most += sum(peak(pid) for pid in stream.pids())
                end(stream)
                stream.start()
                batch.gets_on()  # whoever watched it is with the other, or waits for it
                stream.await_ready()
            peaks.append(most)
        batch.verdict()
        for viewer in batch.audience.viewers:
            assert "reset" not in viewer.recording.told()
            assert len(viewer.recording.connections) > len(peaks), "it was cut off each time"
        # each of their lives is as long and as busy as the last, so whatever one takes comes from what it was told
        assert peaks[-1] <= 1.1 * peaks[-2]
