"""`python -m services.worker --queue Q [--ready-file PATH]`: one worker process for one queue."""

import argparse
import os
import signal
import sys
from pathlib import Path
from threading import Event

from services.worker.masks import Masks
from services.worker.prints import catch_prints
from services.worker.process import WorkerProcess, quiet_dramatiq, settle_interpreter
from services.worker.table import make_handlers
from shared.kinds import KINDS, QUEUES
from shared.logs import configure_logs
from shared.settings import SettingsError, load_settings


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.worker")
    parser.add_argument("--queue", required=True, choices=QUEUES)
    parser.add_argument("--ready-file", type=Path, help="touched once the worker takes jobs")
    arguments = parser.parse_args()
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    masks = Masks()
    configure_logs(settings.log_format, "worker", mask=masks)
    catch_prints()
    quiet_dramatiq()
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    handlers = make_handlers(settings, arguments.queue)
    settle_interpreter()
    return WorkerProcess(settings, arguments.queue, KINDS, handlers, masks).run(stop, arguments.ready_file)


if __name__ == "__main__":
    status = main()
    # a thread that is stuck in a handler must not keep the process from leaving
    sys.stderr.flush()
    os._exit(status)
