"""`python -m infra.workers [--queue Q]… [--processes N]`: worker processes, kept alive. See `run`."""

import argparse
import sys

if __name__ == "__main__":  # before all that takes its time to be loaded
    from shared.signals import leave_at_once

    leave_at_once(0)

from infra.workers.port import PortError
from infra.workers.run import PROCESSES_MAX, run
from shared.kinds import QUEUES
from shared.settings import SettingsError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m infra.workers",
        description="Run workers: one process for each queue, started again when it ends. "
        "SIGTERM lets them finish or give back.",
    )
    parser.add_argument(
        "--queue", action="append", choices=QUEUES, help="a queue to serve; may be given again. All if not given"
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", choices=range(1, PROCESSES_MAX + 1), help="for each queue"
    )
    arguments = parser.parse_args()
    try:
        run(arguments.queue, arguments.processes)
    except (SettingsError, PortError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
