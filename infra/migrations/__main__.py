"""`python -m infra.migrations [--check]`: what `headway migrate` does, where there is no `headway` command."""

import argparse
import sys

if __name__ == "__main__":  # before all that takes its time to be loaded; not done is not 0
    from shared.signals import leave_at_once

    leave_at_once(143)

from infra.migrations.command import CannotMigrate, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.migrations", description="Bring DATABASE_URL up to date.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit status 1 if there is something to do"
    )
    arguments = parser.parse_args()
    try:
        return run(check=arguments.check)
    except CannotMigrate as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
