"""Being told to leave before there is anything to leave.

The kernel spares process 1, which a service is in its container, all signals that it has no handler for. Ours take
their time to come: what handles SIGTERM is loaded first.
"""

import os
import signal
from types import FrameType


def leave_at_once(status: int) -> None:
    """At SIGTERM, with this exit status, until somebody else takes care of it: to be called before all that is heavy is
    imported.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        os._exit(status)  # no `finally`: nothing has begun, and an import that is broken off complains

    signal.signal(signal.SIGTERM, leave)
