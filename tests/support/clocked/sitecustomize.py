"""Python loads this by itself where it is on its path. `time.sleep` fails under libfaketime 0.9.10, which Debian has,
when that is to leave the monotonic clock alone (wolfcw/libfaketime#426); it has no part in this way to wait.
"""

import select
import time


def _sleep(seconds: float) -> None:
    select.select((), (), (), seconds)


time.sleep = _sleep
