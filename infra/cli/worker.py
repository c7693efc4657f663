"""`headway worker`"""

import os
import signal
from threading import Event
from typing import Annotated, Any

import typer

from infra.cli.errors import CliError

_OVERTIME = 15.0
"""Seconds beyond the workers' own limits before they are ended."""


def worker(
    queue: Annotated[
        list[str] | None, typer.Option(help="A queue to serve; may be given again. All if not given.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes for each queue.")] = 1,
) -> None:
    """Run workers: one process for each queue, started again when it ends. SIGTERM lets them finish or give back."""
    from infra.supervisor import Keeper, Program, stop_all  # noqa: PLC0415
    from shared.kinds import QUEUES  # noqa: PLC0415
    from shared.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    if unknown := set(queue or ()) - set(QUEUES):
        raise CliError(f"There is no queue {', '.join(sorted(unknown))}; there are {', '.join(QUEUES)}.")
    stop, hurry = Event(), Event()

    def ended(*_: Any) -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ended)
    keepers = [
        Keeper(
            Program(f"worker {name}", ["-m", "services.worker", "--queue", name], os.environ),
            changed=lambda: None,
            say=lambda sentence: print(sentence, flush=True),
        )
        for name in dict.fromkeys(queue or QUEUES)
        for _ in range(processes)
    ]
    for keeper in keepers:
        keeper.start()
    stop.wait()
    stop_all(keepers, settings.drain_grace + settings.cancel_grace + _OVERTIME, hurry)
