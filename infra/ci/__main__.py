"""`make check`'s last step: every rule, every problem, exit status 1 if there is one."""

import sys
from pathlib import Path

from infra.ci import hygiene, notices, pins, rules, sizes, variables

RULES = (hygiene, sizes, pins, notices, variables, rules)
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    found = [problem for rule in RULES for problem in rule.problems(ROOT)]
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print("Rules of this repository: kept.")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
