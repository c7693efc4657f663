"""`headway run`: everything on this machine, in the foreground, with a demonstration."""

import contextlib
import os
import shutil
import signal
from pathlib import Path
from threading import Event, Thread
from typing import Annotated, Any

import typer

from infra.cli.demo import TIMES

_PERIOD = 5.0
"""Seconds between two looks at what has to be tidied up."""


def run(
    *,
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="Submit a demonstration once all is ready.")] = True,
    repeat: Annotated[int, typer.Option(min=1, max=1000, help="How often it looks at each photograph.")] = TIMES,
) -> None:
    """Start everything here: PostgreSQL, Valkey, api, stream and workers, with a demonstration.

    State is kept in HEADWAY_HOME (.headway). The address is http://127.0.0.1:8000, or another port if that is in use;
    HEADWAY_PORT asks for a certain one. DATABASE_URL and REDIS_URL name servers to use instead of own ones.
    Ctrl-C stops everything; a second Ctrl-C does not wait.
    """
    from infra.cli.stack import Stack  # noqa: PLC0415
    from infra.home import home_of_process  # noqa: PLC0415

    stop, hurry = Event(), Event()
    _on_signals(stop, hurry)
    home = home_of_process()
    home.enter()
    try:
        stack = Stack(home, os.environ, stop, say)
        say(f"Headway keeps its state in {home.path}, and its logs in {home.logs}")
        try:
            stack.start()
            if not stop.is_set():
                say(f"ready {stack.address}")
                Thread(
                    target=_after_start,
                    args=(stack, home, repeat if demo else 0, stop),
                    name="demonstration",
                    daemon=True,
                ).start()
            while not stop.wait(_PERIOD):
                stack.tidy()
            say("Stopping (Ctrl-C once more: without waiting) …")
        finally:
            stack.stop(hurry)
    finally:
        home.leave()


def say(sentence: str) -> None:
    # whoever read this may be gone, which is no reason to stop
    with contextlib.suppress(OSError):
        print(sentence, flush=True)


def _on_signals(stop: Event, hurry: Event) -> None:
    def ended(*_: Any) -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)


def _after_start(stack: Any, home: Any, repeat: int, stop: Event) -> None:
    """What takes a while and needs not be waited for. In a thread, which dies with the process. `repeat` 0: no demo."""
    from infra.cli.demo import submit_demo  # noqa: PLC0415
    from infra.cli.errors import CliError  # noqa: PLC0415
    from infra.cli.target import OWNER, own_tokens  # noqa: PLC0415

    if "HEADWAY_DETECTOR" not in stack.environment:
        _build_detector(stack, home, stop)
    if not repeat or stop.is_set():
        say("Ctrl-C stops everything.")
        return
    from infra.cli.api import Api  # noqa: PLC0415

    try:
        with Api(stack.address, own_tokens(home, OWNER)) as api:
            batch = submit_demo(api, repeat)
            page, stream = api.absolute(batch["webUrl"]), api.absolute(batch["streamUrl"])
    except CliError as error:
        if not stop.is_set():
            say(f"The demonstration could not be submitted: {error}")
        return
    say(
        f"\nA demonstration runs, {batch['counts']['total']} photographs. Watch it in the browser:\n\n  {page}\n\n"
        f"or as it comes over the wire:\n\n  curl -N '{stream}'\n\nCtrl-C stops everything."
    )


def _build_detector(stack: Any, home: Any, stop: Event) -> None:
    from infra.supervisor import Program  # noqa: PLC0415

    if shutil.which("npm") is None:
        say("No npm here, so no object detector is built: inventories will say that nothing was recognised.")
        return
    say("Building the object detector for photographs, once (it is fetched with npm) …")
    log: Path = home.logs.resolve() / "detector.log"
    arguments = ["-m", "infra.detector", "--output", str(home.detector.resolve())]
    program = Program("detector", arguments, os.environ, log=log)
    program.start()
    Thread(target=_end_with, args=(program, stop), daemon=True).start()
    program.wait()
    if home.detector.exists():
        stack.detector_built()
    elif not stop.is_set():
        say(
            f"The object detector could not be built, and inventories will say so; {log} says why. "
            "The next start tries again."
        )


def _end_with(program: Any, stop: Event) -> None:
    stop.wait()
    program.signal(hard=True)
