"""The command that compares two runs, or the methods of a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.cli.commands.common import open_terminal
from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.cli.terminal import Terminal


LEAKY = "LEAKY: source groups were ignored; near-copies of test patches may have been trained on."


def compare(
    one: Annotated[str, typer.Argument(metavar="RUN", help="The first run's folder; or a study's, alone.")],
    other: Annotated[str | None, typer.Argument(metavar="RUN", help="The second run's folder.")] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="Of a study: what the others are compared with, else its first method."),
    ] = None,
    out: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Also write it: .html, .png or .json, of a study .csv; may be repeated."),
    ] = None,
) -> None:
    """Compare two runs at the sites both held out: first minus second, paired patch by patch, over source groups.

    With a study's folder alone: every method with one of them at each held-out site, a mean over the seeds, with the
    interval of the site's patients.
    """
    files = [Path(name) for name in out or []]
    with open_terminal() as terminal:
        if other is None:
            _methods(terminal, Path(one), against, files)
            return
        if against is not None:
            raise MedflError("--against is of a study's folder alone; two runs are compared with each other")
        _runs(terminal, one, other, files)


def _runs(terminal: Terminal, one: str, other: str, files: list[Path]) -> None:
    from medfl.study.compare_runs import compare_runs, verdict
    from medfl.study.report.comparison_page import COLUMNS, check_form, comparison_rows, write_comparison

    for file in files:
        check_form(file)
    result = compare_runs(one, other)
    for file in files:
        write_comparison(result, file)
    terminal.say(f"first:  {result['one']}", f"second: {result['other']}")
    terminal.table("Held-out sites, both models on the same patches", COLUMNS, comparison_rows(result), keys=2)
    if result["leaky"]:
        terminal.say(LEAKY)
    for name in result["withheld"]:
        terminal.say(f"{name} withholds all figures, for too few patients")
    terminal.say("Of Brier score and ECE less is better.", verdict(result), *(f"Written: {file}" for file in files))


def _methods(terminal: Terminal, study: Path, against: str | None, files: list[Path]) -> None:
    from medfl.study.compare_methods import COLUMNS, SHOWN, compare_methods, tables
    from medfl.study.csv_rows import write_table

    if (study / "summary.json").is_file():
        raise MedflError(f"{study} is one run; name the run that it is to be compared with, or a study's folder")
    if wrong := [file for file in files if file.suffix.lower() != ".csv"]:
        raise MedflError(f"--out {wrong[0]}: the methods of a study are written to a file that ends in .csv")
    if away := [file for file in files if not file.parent.is_dir()]:
        raise MedflError(f"--out {away[0]}: there is no folder {away[0].parent}; make it, or name another")
    with terminal.steps() as step:
        comparison = compare_methods(study, against, step)
    unwritten = []
    for file in files:
        try:
            write_table(file, [difference.row for difference in comparison.differences], COLUMNS)
        except OSError as error:
            unwritten.append(f"--out {file} cannot be written: {error.strerror}")
    for place, rows in tables(comparison.differences):
        terminal.table(f"{place}: AUROC against {comparison.against}", SHOWN, rows, keys=2)
    if comparison.leaky:
        terminal.say(LEAKY)
    terminal.say(
        *comparison.notices,
        "Means over the seeds that both methods have, on the same patches; intervals are of the site's source groups "
        "(patients), not adjusted for their number.",
        *([] if unwritten else (f"Written, with all figures: {file}" for file in files)),
    )
    if unwritten:
        raise MedflError(unwritten[0])
