"""`headway worker`"""

from typing import Annotated

import typer

from infra.cli.errors import CliError


def worker(
    queue: Annotated[
        list[str] | None, typer.Option(help="A queue to serve; may be given again. All if not given.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes for each queue.")] = 1,
) -> None:
    """Run workers: one process for each queue, started again when it ends. SIGTERM lets them finish or give back."""
    from infra.workers.port import PortError  # noqa: PLC0415
    from infra.workers.run import run  # noqa: PLC0415

    try:
        run(queue, processes)
    except PortError as error:
        raise CliError(str(error)) from None
