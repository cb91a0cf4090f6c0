"""The section on privacy: what a private run guarantees and what not, and how well training patches can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from medfl.report.html_blocks import heading, join, table, text
from medfl.report.html_page import PageSection
from medfl.report.run_results import Evidence, interval
from medfl.runs.privacy_ledger import best_guess

COVERED = (
    "Covered: the weights of every round, against anyone who sees all of them, for a site as a whole: that it took "
    "part at all, and so every patient of it. Epsilon compares a run with the site to one without it (add or remove), "
    "not to one in which the site had other data, which moves a sum twice as far. The server is trusted with the "
    "clipped updates."
)
PATIENTS_COVERED = (
    "Covered: the updates of every round and with them the weights, against anyone who sees all of them, the server "
    "too, for each patient (source group) of a site: that he took part at all. Epsilon compares a run with the patient "
    "to one without him (add or remove)."
)
NOT_COVERED = (
    "Not covered: everything else that leaves a site. That is every figure on this page, the training losses, the "
    "counts of patches and steps, the calibration and the thresholds, and whether a site answered."
)


def privacy(evidence: Evidence) -> PageSection | None:
    """What the run guarantees, and the membership check; absent where the run has neither."""
    spent = evidence.summary.get("privacy")
    blocks = (_guarantee(evidence, spent) if spent else []) + _members(evidence)
    return PageSection("privacy", "Privacy", join(*blocks)) if blocks else None


def _guarantee(evidence: Evidence, spent: Mapping[str, Any]) -> list[Markup]:
    if spent["seeded"]:
        return [
            text(
                "Not private: for tests. The noise was drawn from the run's seed, and whoever knows the seed can "
                "subtract it. No epsilon is stated."
            )
        ]
    rows = [
        [name, str(own["rounds"]), f"{own['epsilon']:.3g}", f"{100 * best_guess(own['epsilon'], spent['delta']):.2f} %"]
        for name, own in spent["sites"].items()
        if evidence.site in (None, name)
    ]
    of_patients = spent.get("unit") == "patient"
    what = "patients: gradients of each in a step" if of_patients else "whole sites: updates"
    who = "one of its patients" if of_patients else "the site"
    explanation = (
        f"Differential privacy of {what} clipped to length {spent['clip']:g}, noise of up to "
        f"{spent['noise']:.3g} times that. Epsilon at a delta of {spent['delta']:g}, by {spent['accountant']}. The "
        f"last column is how often someone can be right at most who guesses from all models whether {who} took part; "
        f"guessing blindly is right 50 % of the time."
    )
    head = ["site", "rounds it may have been part of", "epsilon", "best guess"]
    covered = PATIENTS_COVERED if of_patients else COVERED
    return [heading("Guarantee"), text(explanation), table(head, rows), text(covered, NOT_COVERED)]


def _members(evidence: Evidence) -> list[Markup]:
    attacks = {name: entry["membership"] for name, entry in evidence.measured.items() if entry.get("membership")}
    if not attacks:
        return []
    rows = [
        [name, f"{own['n_members']:,}", f"{own['n_others']:,}", interval(own, "auroc")] for name, own in attacks.items()
    ]
    explanation = (
        "How well a threshold on the model's loss tells a site's training patches from its test patches: 0.5 is "
        "chance, 1 tells every one. Test patches come from other source groups, so the figure also holds what the "
        "model does worse on new patients. Stronger attacks exist: a value near 0.5 is no proof of privacy."
    )
    head = ["site", "training patches", "test patches", "AUROC [95 %]"]
    return [heading("Can training patches be told?"), text(explanation), table(head, rows)]
