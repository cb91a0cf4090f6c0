"""The command that compares two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.cli.commands.common import open_terminal


def compare(
    one: Annotated[str, typer.Argument(metavar="RUN", help="The first run's folder.")],
    other: Annotated[str, typer.Argument(metavar="RUN", help="The second run's folder.")],
    out: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Also write it: .html, .png or .json; may be repeated.")
    ] = None,
) -> None:
    """Compare two runs at the sites both held out: first minus second, paired patch by patch, over source groups."""
    from medfl.study.compare_runs import compare_runs, verdict
    from medfl.study.report.comparison_page import COLUMNS, check_form, comparison_rows, write_comparison

    files = [Path(name) for name in out or []]
    for file in files:
        check_form(file)
    with open_terminal() as terminal:
        result = compare_runs(one, other)
        for file in files:
            write_comparison(result, file)
        terminal.say(f"first:  {result['one']}", f"second: {result['other']}")
        terminal.table("Held-out sites, both models on the same patches", COLUMNS, comparison_rows(result), keys=2)
        if result["leaky"]:
            terminal.say("LEAKY: source groups were ignored; near-copies of test patches may have been trained on.")
        for name in result["withheld"]:
            terminal.say(f"{name} withholds all figures, for too few patients")
        terminal.say("Of Brier score and ECE less is better.", verdict(result), *(f"Written: {file}" for file in files))
