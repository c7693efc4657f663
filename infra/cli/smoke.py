"""`headway smoke`"""

from typing import Annotated

import typer

from infra.cli.target import TokenOption, find_api, strangers_token


def smoke(
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="Address of Headway. [env: HEADWAY_URL, or what runs here]")
    ] = None,
    token: TokenOption = None,
    other_token: Annotated[
        str | None, typer.Option(help="A token of somebody else, who must not see the batch.", show_default=False)
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Also wait for a ping and for the timeout at a stream's end of life.")
    ] = False,
    disturbed: Annotated[
        bool,
        typer.Option(
            "--disturbed",
            help="Parts are killed or replaced while the first batch runs, which takes some ten seconds then: a stream"
            " that breaks is taken up again by its last id, as browsers do, and attempts that this costs are no"
            " failure.",
        ),
    ] = False,
    heartbeat: Annotated[float, typer.Option(min=0.1, help="The server's HEADWAY_HEARTBEAT, in seconds.")] = 15,
    lifetime: Annotated[float, typer.Option(min=0.1, help="The server's HEADWAY_LIFETIME, in seconds.")] = 1800,
    patience: Annotated[float, typer.Option(min=1, help="Seconds that the batch may take to run.")] = 60,
) -> None:
    """Check a running Headway from outside: one rehearsal batch, and its stream event by event.

    A line for each check. Exit status: 0 all passed, 1 something did not, 2 it could not be tried. With --wait it takes
    as long as a stream lives, half an hour where nothing else is set.
    """
    from infra.cli.smoketest.checks import Checks  # noqa: PLC0415
    from infra.cli.smoketest.persistence import Persistent, persistent  # noqa: PLC0415
    from infra.cli.smoketest.rehearsal import check_all  # noqa: PLC0415
    from infra.cli.smoketest.waiting import Timing  # noqa: PLC0415

    with find_api(url, token, client=Persistent if disturbed else None) as api:
        print(f"Smoke test of {api.address}", flush=True)
        checks = Checks()
        check_all(
            checks,
            api,
            other_token or strangers_token(api.address, token),
            Timing(heartbeat, lifetime, patience),
            wait=wait,
        )
        if client := persistent(api):
            print(f"Connections that were lost, or requests tried again: {client.came_back}.", flush=True)
    print(checks.verdict(), flush=True)
    raise typer.Exit(1 if checks.failed else 0)
