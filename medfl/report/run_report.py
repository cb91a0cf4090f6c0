"""The report of a run: which sections, in which order, and where the page is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medfl.errors import MedflError
from medfl.report import (
    diagnostics,
    learning_curves,
    privacy_section,
    provenance,
    results_sections,
    subgroup_section,
    unit_section,
)
from medfl.report.html_page import PageSection, render_page
from medfl.report.run_results import Evidence, read_evidence
from medfl.runs.digests import reading


@dataclass(frozen=True)
class Extras:
    """What a caller adds to a page: sections at its end, a notice at its head, a word at the end of its file's name."""

    sections: tuple[PageSection, ...] = ()
    notice: str = ""
    suffix: str = ""


def report_html(folder: Path, site: str | None = None) -> str:
    """The page of a finished run, or of one of its sites; a function of the run folder, and without a single pixel.

    Raises:
        MedflError: no finished run, or no such site.
    """
    with reading(folder):
        return _page(read_evidence(folder, site), Extras())


def write_report(
    folder: Path,
    out: Path | None = None,
    site: str | None = None,
    extras: Callable[[Evidence], Extras] = lambda evidence: Extras(),
) -> Path:
    """Write the page and return where.

    Args:
        folder: a finished run.
        out: the file; by default in the run folder: `report.html`, `report-<site>.html`, and with the extras' suffix
            where there is one, so that `report.html` is always the plain page.
        site: one site's own page: its figures only.
        extras: what is added, given what the page shows.

    Raises:
        MedflError: no finished run, no such site, an unwritable file; and what `extras` raises.
    """
    with reading(folder):
        evidence = read_evidence(folder, site)
        added = extras(evidence)
        page = _page(evidence, added)
    name = "-".join(word for word in ("report", site, added.suffix) if word)
    target = out or folder / f"{name}.html"
    from medfl.data.atomic_file import write_text

    try:
        write_text(target, page, private=bool(added.suffix))
    except OSError as error:
        raise MedflError(f"{target} cannot be written ({error.strerror}); name another file with --out") from None
    return target


def _page(evidence: Evidence, extras: Extras) -> str:
    sections = (
        results_sections.result(evidence),
        results_sections.site_table(evidence),
        unit_section.per_unit(evidence),
        subgroup_section.by_subgroup(evidence),
        results_sections.adapted(evidence),
        learning_curves.class_mix(evidence),
        learning_curves.learning_curves(evidence),
        results_sections.heat_maps(evidence),
        diagnostics.calibration(evidence),
        learning_curves.stability(evidence),
        diagnostics.discrimination(evidence),
        diagnostics.confusions(evidence),
        results_sections.pooled(evidence),
        privacy_section.privacy(evidence),
        provenance.conduct(evidence),
        provenance.configuration(evidence),
        *extras.sections,
    )
    summary, site = evidence.summary, evidence.site
    trained, unseen = len(evidence.of_role("train")), len(evidence.of_role("held_out"))
    places = [f"{trained} training sites, {unseen} held out"] if not site else []
    model = "one model a site, after round" if evidence.arm == "local_only" else "model of round"
    return render_page(
        f"{summary['pipeline']}: {site}" if site else str(summary["pipeline"]),
        [section for section in sections if section is not None],
        kicker="medfl report of one site" if site else "medfl report",
        subtitle=evidence.description,
        facts=[
            provenance.chain(evidence),
            *places,
            f"{model} {summary['selected_round']} of {summary['rounds']}",
            f"seed {summary['seed']}",
            f"run {summary.get('run', evidence.run.name)}",
        ],
        notice=extras.notice,
    )
