"""The report of a run or of a study as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.cli.commands.common import open_terminal
from medfl.errors import MedflError


def report(
    folder: Annotated[str, typer.Argument(metavar="RUN|STUDY", help="A run folder or a study folder.")],
    out: Annotated[str | None, typer.Option(help="File to write; default: report.html in the folder.")] = None,
    site: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a run: one site's own page, its figures only.")
    ] = None,
    with_patches: Annotated[
        bool, typer.Option("--with-patches", help="Of a run: also show patches; that page stays on this machine.")
    ] = False,
) -> None:
    """Write the figures and charts of a run or a study as one self-contained HTML page."""
    with open_terminal() as terminal:
        terminal.say(f"Report: {_write(Path(folder), Path(out) if out else None, site, with_patches)}")


def _write(path: Path, target: Path | None, site: str | None, with_patches: bool) -> Path:
    # A study that was killed has its tables only; what is missing is said by the one who reads it.
    if (path / "study.json").is_file() or (path / "runs.csv").is_file():
        if site or with_patches:
            raise MedflError(
                f"{path} is a study folder, and --site and --with-patches are for a single run: name one of "
                f"{path / 'runs'}"
            )
        from medfl.study.report.study_page import write_study_report

        return write_study_report(path, target)
    if not (path / "pipeline.yaml").is_file():
        raise MedflError(
            f"{path} is neither a run folder (no pipeline.yaml in it) nor a study folder (no study.json and runs.csv "
            "in it); `medfl run` and `medfl study` print the folder they write"
        )
    from medfl.report.run_report import write_report

    if not with_patches:
        return write_report(path, target, site)
    from medfl.pipeline import patch_gallery

    return write_report(path, target, site, patch_gallery.with_patches)
