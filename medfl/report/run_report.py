"""The report of a run: which sections, in which order, and where the page is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medfl.errors import MedflError
from medfl.report import diagnostics, learning_curves, privacy_section, provenance, results_sections
from medfl.report.html_page import PageSection, render_page
from medfl.report.run_results import IN_PROCESS, Evidence, read_evidence

PATCHES = "This page shows patches: it belongs to the machine that holds them. The page without them can be passed on."


def report_html(folder: Path, site: str | None = None) -> str:
    """The page of a finished run, or of one of its sites; a function of the run folder, and without a single pixel.

    Raises:
        MedflError: no finished run, or no such site.
    """
    return _page(read_evidence(folder, site), None)


def write_report(
    folder: Path,
    out: Path | None = None,
    site: str | None = None,
    gallery: Callable[[Evidence], PageSection] | None = None,
) -> Path:
    """Write the page and return where.

    Args:
        folder: a finished run.
        out: the file; by default in the run folder: `report.html`, `report-<site>.html`, and with patches
            `report-with-patches.html`, so that `report.html` can always be passed on.
        site: one site's own page: its figures only.
        gallery: makes a section of patches, which needs the run's data on this machine; None shows no patch.

    Raises:
        MedflError: no finished run, no such site, patches of a run whose data is elsewhere, an unwritable file.
    """
    evidence = read_evidence(folder, site)
    patches = None
    if gallery is not None:
        engine = evidence.summary.get("engine") or IN_PROCESS
        if engine != IN_PROCESS:
            raise MedflError(
                f"{folder} ran on the {engine} engine, so its patches are at the sites and not here; leave "
                "--with-patches out, or run it at a site"
            )
        patches = gallery(evidence)
    name = "-".join(["report", *([site] if site else []), *(["with-patches"] if gallery else [])])
    target = out or folder / f"{name}.html"
    from medfl.runs.folder import write_text

    try:
        write_text(target, _page(evidence, patches))
    except OSError as error:
        raise MedflError(f"{target} cannot be written ({error.strerror}); name another file with --out") from None
    return target


def _page(evidence: Evidence, patches: PageSection | None) -> str:
    sections = (
        results_sections.headline(evidence),
        results_sections.site_table(evidence),
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
        patches,
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
        notice=PATCHES if patches else "",
    )
