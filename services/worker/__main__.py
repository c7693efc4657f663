"""`python -m services.worker --queue Q [--ready-file PATH] [--report-file PATH]`: one worker process for one queue."""

import argparse
import os
import signal
import sys
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

from services.worker.listeners import load_listeners
from services.worker.masks import Masks
from services.worker.prints import catch_prints
from services.worker.process import WorkerProcess, quiet_dramatiq, settle_interpreter
from services.worker.table import make_handlers
from shared.files import check_place
from shared.kinds import KINDS, QUEUES
from shared.logs import configure_logs
from shared.settings import SettingsError, load_settings
from shared.tracing import start_tracing, stop_tracing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.worker")
    parser.add_argument("--queue", required=True, choices=QUEUES)
    parser.add_argument("--ready-file", type=Path, help="touched once the worker takes jobs")
    parser.add_argument("--report-file", type=Path, help="where it says each second how it is: see report.py")
    arguments = parser.parse_args()
    try:
        settings = load_settings(keys=False)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    handlers = make_handlers(settings, arguments.queue)
    listeners = load_listeners()
    masks = Masks()
    configure_logs(settings.log_format, "worker", queue=arguments.queue, mask=masks)
    try:
        check_place(settings)
        start_tracing("worker")
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    catch_prints()
    quiet_dramatiq()
    stop, hurry = Event(), Event()
    _listen(stop, hurry)
    settle_interpreter()
    process = WorkerProcess(settings, arguments.queue, KINDS, handlers, masks, listeners)
    try:
        return process.run(stop, arguments.ready_file, hurry, arguments.report_file)
    finally:
        stop_tracing()


def _listen(stop: Event, hurry: Event) -> None:
    """The first signal sets `stop`, each further one `hurry`. In a thread: where a handler of signals is called, an
    event may be locked, by that very thread.
    """
    signals: SimpleQueue[int] = SimpleQueue()

    def listen() -> None:
        while True:
            signals.get()
            (hurry if stop.is_set() else stop).set()

    Thread(target=listen, name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda caught, _: signals.put(caught))


if __name__ == "__main__":
    status = main()
    # a thread that is stuck in a handler must not keep the process from leaving
    sys.stderr.flush()
    os._exit(status)
