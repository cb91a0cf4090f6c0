"""The report of a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.commands.common import RunPath


def report(
    run: RunPath,
    out: Annotated[str | None, typer.Option(help="File to write; default: report.html in the run folder.")] = None,
    site: Annotated[str | None, typer.Option(metavar="NAME", help="One site's own page: its figures only.")] = None,
    with_patches: Annotated[
        bool, typer.Option("--with-patches", help="Also show patches; that page stays on this machine.")
    ] = False,
) -> None:
    """Write a run's figures and charts as one self-contained HTML page."""
    from medfl.report.run import write_report

    target = write_report(Path(run), Path(out) if out else None, site, with_patches)
    print(f"Report: {target}")
