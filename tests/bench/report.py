"""Results as the tables that are printed, and that stand between two marks in docs/benchmarks.md."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.bench.results import Result, Verdict

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN = "<!-- what `make bench` wrote: begin -->"
END = "<!-- what `make bench` wrote: end -->"


def render(result: Result) -> str:
    lines = [f"### {result.title}", ""]
    if result.note:
        lines += [result.note, ""]
    if not result.numbers:
        return "\n".join(lines)
    lines += ["| measured | median | lowest to highest | rounds |", "|---|---:|---:|---:|"]
    for number in result.numbers:
        spread = f"{_short(min(number.values))} to {_short(max(number.values))}"
        lines.append(
            f"| {number.what} | {_short(median(number.values))} {number.unit} | {spread} | {len(number.values)} |"
        )
    lines += ["", "| goal | median | lowest to highest | |", "|---|---:|---:|---|"]
    lines += [_verdict(verdict) for verdict in result.verdicts]
    return "\n".join(lines) + "\n"


def write(machine: str, results: Sequence[Result]) -> None:
    """Puts everything of a whole run in the place of what the last one wrote."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n".join(render(result) for result in results)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{machine}\n{tables}\n{END}{after}")


def _verdict(verdict: Verdict) -> str:
    goal = verdict.what
    if verdict.limit is not None:
        goal += f": {'at most' if verdict.at_most else 'at least'} {_short(verdict.limit)} {verdict.unit}"
    said = {None: "no goal", True: "met", False: "**missed**"}[verdict.met]
    spread = f"{_short(min(verdict.values))} to {_short(max(verdict.values))}"
    return f"| {goal} | {_short(verdict.value)} {verdict.unit} | {spread} | {said} |"


def _short(value: float) -> str:
    """Three digits that count, and no more."""
    if value and abs(value) < 0.1:
        return f"{value:.2g}"
    if abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"
