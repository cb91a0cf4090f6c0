"""What a run does not show: sentences computed from its facts, the gravest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medfl.data.sources.source_registry import drawn_data
from medfl.metrics import format_figure
from medfl.report.run_results import Evidence, arrow
from medfl.runs.data_record import data_warnings

FEW_SITES = 3
NAMED = 5


def limits(evidence: Evidence) -> list[tuple[str, str]]:
    """(short name, sentence) of everything that stands between the figures and a claim about a hospital."""
    return [*_data(evidence), *_sites(evidence), *_model(evidence), *_always(evidence)]


def several(names: Sequence[str]) -> str:
    """The names, or the first of many."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _data(evidence: Evidence) -> Iterator[tuple[str, str]]:
    summary, data = evidence.summary, evidence.pipeline["data"]
    if summary["leaky"]:
        yield (
            "Leaky splits.",
            "Source groups were ignored: near-copies of test patches may have been trained on, so every figure here "
            "is too good by an unknown amount.",
        )
    warnings = data_warnings(evidence.run.folder)
    for warning in warnings if not evidence.site else [w for w in warnings if w.startswith(f"site {evidence.site}:")]:
        yield "Unusual patches.", f"{warning[:1].upper()}{warning[1:]}."
    for what in drawn_data(evidence.pipeline) or (["Tissue"] if data["source"] == "tissue" else []):
        yield "No patient.", f"{what}: drawn by a program from a seed; the figures say nothing about patients."
    if data["source"] == "lc25000":
        yield (
            "No patients told apart.",
            "LC25000 holds augmented copies of few source tiles; its source groups are tiles, not patients.",
        )
    if data.get("mode", "dealt") == "dealt":
        strength = data.get("stain_strength", 1.0)
        yield (
            "Simulated institutions.",
            f"One collection was dealt to made-up sites whose stains differ by computation (strength {strength:g}); "
            "real scanners, laboratories and populations differ in more ways.",
        )


def _sites(evidence: Evidence) -> Iterator[tuple[str, str]]:
    measured, held_out = evidence.measured, evidence.of_role("held_out")
    if not evidence.site and not held_out:
        yield "No unseen site.", "Every site trained, so nothing is known about a hospital that did not."
    elif not evidence.site and len(held_out) < FEW_SITES:
        which = "site was" if len(held_out) == 1 else "sites were"
        yield "Few unseen sites.", f"Only {len(held_out)} {which} held out: too few to say how sites differ."
    few = [name for name, entry in measured.items() if entry.get("few_groups")]
    if few:
        yield (
            "Few source groups.",
            f"The intervals at {several(few)} rest on fewer than ten groups on a side of some class: too few to show "
            "how groups differ, whatever the interval says.",
        )
    yield from _small_cells(measured)
    partial = [
        name
        for name, entry in measured.items()
        if len(entry["supported_classes"]) < len(evidence.classes) and (evidence.site or entry["role"] == "held_out")
    ]
    if partial:
        yield (
            "Classes missing.",
            f"{several(partial)}: not all classes occur there, so the mean AUROC averages over those that do.",
        )
    failures = evidence.failures()
    if failures:
        lost = sorted({str(f["site"]) for f in failures})
        many = "once" if len(failures) == 1 else f"{len(failures)} times"
        yield "Failures.", f"Sites failed {many} ({several(lost)}): the model saw less of them than was planned."
    looked = any(
        entry.get("test")
        for record in evidence.run.rounds
        for n, entry in record["sites"].items()
        if n in evidence.roles
    )
    if looked:
        yield (
            "Test data was watched.",
            "Held-out figures were monitored during training; settings chosen after seeing them would be too good.",
        )


def _small_cells(measured: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What sites do not tell because few patients stand behind it."""
    notes = {name: entry["withheld"] for name, entry in measured.items() if entry.get("withheld")}
    if not notes:
        return
    floor = max(note["min_count"] for note in notes.values())
    silent = [name for name, note in notes.items() if note["all"]]
    silence = f" {several(silent)} tells nothing at all." if silent else ""
    named = [f"{name} ({several(note['classes'])})" for name, note in notes.items() if note["classes"]]
    classes = f" Figures of single classes are withheld at {several(named)}." if named else ""
    yield (
        "Small cells withheld.",
        f"What stands on fewer than {floor} source groups is pooled or withheld at {several(list(notes))}, so curves "
        f"and histograms are coarser there.{classes}{silence}",
    )


def _model(evidence: Evidence) -> Iterator[tuple[str, str]]:
    summary = evidence.summary
    if (summary.get("privacy") or {}).get("seeded"):
        yield "Not private: for tests.", "The noise of `dp` came from the run's seed and can be subtracted."
    yield (
        "One training seed.",
        f"Seed {summary['seed']} alone: how far the figures move with another one is not shown. A study repeats "
        "the run over seeds.",
    )
    if evidence.arm:
        yield (
            "No federation.",
            "This run is a yardstick: "
            + (
                "every site trained alone." if evidence.arm == "local_only" else "all data was trained on in one place."
            ),
        )
    elif not evidence.site:
        yield (
            "No brackets.",
            "What every site reaches alone, and what all data in one place would reach, was not run here; so neither "
            "the gain from federation nor its price is known.",
        )
    if not evidence.calibrated:
        yield (
            "Not calibrated.",
            "Probabilities are as the network gave them; a stated 90\u00a0% need not be right 90\u00a0% of the time.",
        )
    changes = {name: (entry.get("ece_before"), entry["ece"]) for name, entry in evidence.measured.items()}
    raised = [
        f"{name} ({arrow(format_figure(before), format_figure(after))})"
        for name, (before, after) in changes.items()
        if before is not None and after is not None and after > before
    ]
    if raised:
        yield "Calibration everywhere.", f"Calibration made the ECE larger at {several(raised)}."
    if not any(entry.get("operating") for entry in evidence.measured.values()):
        yield "No operating point.", "No threshold was chosen, so sensitivity and specificity are not stated."
    if not summary.get("mpp"):
        yield (
            "Unknown magnification.",
            "Microns per pixel are not stated: at another magnification the figures do not hold.",
        )


def _always(evidence: Evidence) -> Iterator[tuple[str, str]]:
    seconds = evidence.summary.get("virtual_seconds")
    if seconds and not evidence.site:
        yield "No real clock.", f"The {seconds:,.0f} s of virtual time follow from stated lines, not from a network."
    if any("wall_seconds" in record for record in evidence.run.rounds):
        yield (
            "No second run like it.",
            "Updates were merged as they arrived (`training.clock: wall`); the same pipeline again gives others.",
        )
    whose = "this site" if evidence.site else "each site"
    yield (
        "Other hospitals.",
        f"An interval says how the figure would vary with other patients of {whose}; it says nothing about other "
        "hospitals.",
    )
    yield "Benefit to anyone.", "Research only: nothing here was tested in care, and this is not a medical device."
