"""A study's findings from its tables, written into its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfl.data.atomic_file import write_text
from medfl.study.analysis import chosen, result, save
from medfl.study.execute import Finished
from medfl.study.study_file import StudyPlan
from medfl.study.study_tables import Tables
from medfl.study.text_tables import markdown
from medfl.study.track_study import track
from medfl.study.tuning import write_choices


@dataclass(frozen=True)
class WriteUp:
    """What a study found.

    Attributes:
        findings: study.json.
        lines: where it is, for people.
    """

    findings: Mapping[str, Any]
    lines: tuple[str, ...]


def write_up(plan: StudyPlan, folder: Path, failed: Sequence[Finished], tracked: bool) -> WriteUp:
    """Write study.json, tables.md and the page from what is done, and log it where that is wanted.

    Args:
        plan: what was asked for.
        folder: where its tables are.
        failed: the runs that have failed this time.
        tracked: whether it goes to MLflow, as its pipeline's `tracking` says.
    """
    tables = Tables.load(folder)
    findings = result(plan, tables, {done.run.title: done.problem for done in failed})
    save(folder, findings)
    if plan.file.grid:
        write_choices(chosen(plan, tables), plan.file.grid, folder)
    write_text(folder / "tables.md", markdown(findings))
    page = _page(folder)
    logged = (track(plan, tables, findings, folder),) if tracked else ()
    return WriteUp(findings, (f"Study:  {folder}", page, *logged))


def _page(folder: Path) -> str:
    """Writes the study's page and says where it is; one that cannot be drawn must not cost the study."""
    from medfl.study.report.study_page import write_study_report

    try:
        return f"Report: {write_study_report(folder)}"
    except Exception as error:
        return f"The report could not be drawn ({error}); try `medfl report {folder}`"
