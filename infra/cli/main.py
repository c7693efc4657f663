"""The `headway` command: one file for each subcommand, which imports what it needs when it is called.

So an image that holds only one service can run that service's command.
"""

import sys

import typer

from infra.cli.artifacts import artifacts
from infra.cli.control import cancel, close, delete, pause, resume, retry
from infra.cli.doctor import doctor
from infra.cli.epoch import epoch
from infra.cli.errors import CliError
from infra.cli.history import logs, timeline
from infra.cli.migrate import migrate
from infra.cli.run import run
from infra.cli.services import api, stream
from infra.cli.smoke import smoke
from infra.cli.submit import add, submit
from infra.cli.token import token
from infra.cli.watch import watch
from infra.cli.worker import worker
from infra.cli.workers import workers
from infra.embedded.errors import EmbeddedError
from infra.home import HomeError
from shared.settings import SettingsError

app = typer.Typer(
    name="headway",
    help="Live progress of long-running work.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would print local variables, and so tokens
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    *(run, api, worker, stream, migrate, token, submit, add, watch, logs, timeline, artifacts),
    *(pause, resume, close, cancel, retry, delete, smoke, doctor),
):
    app.command()(command)
app.add_typer(epoch, name="epoch")
app.add_typer(workers, name="workers")


def main() -> None:
    try:
        app()
    except (CliError, EmbeddedError, HomeError, SettingsError) as error:
        sys.stderr.write(f"headway: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
