"""The table of stability figures: what each is called, what it means, and where it is shown.

`medfl.metrics.stability` computes them; definitions: docs/metrics.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medfl.metrics.figures import Place


@dataclass(frozen=True)
class StabilityFigure:
    """One row: its key in `Stability.summary`, its label, its meaning in a sentence, the tables that show it,
    and which way is better; None where no way is."""

    key: str
    label: str
    meaning: str
    shown: frozenset[Place]
    direction: Literal["higher", "lower"] | None = "lower"


_REPORT = frozenset({Place.REPORT})
_STUDY = _REPORT | {Place.STUDY_RUNS}
_CARD = _STUDY | {Place.CARD}
_CONSOLE = _CARD | {Place.CONSOLE}

STABILITY_FIGURES = (
    StabilityFigure(
        "oscillation",
        "oscillation",
        "mean change of the sites' mean validation AUROC between late rounds, progress included",
        _CONSOLE,
    ),
    StabilityFigure(
        "trend_free_oscillation",
        "trend-free oscillation",
        "mean distance of that AUROC in late rounds from the line through its neighbours: without steady progress",
        _CONSOLE,
    ),
    StabilityFigure(
        "largest_drop",
        "largest drop",
        "its largest fall from one round to the next (negative: it only rose)",
        _CONSOLE,
    ),
    StabilityFigure(
        "site_spread",
        "site spread",
        "standard deviation over training sites at the selected round",
        _CONSOLE,
    ),
    StabilityFigure(
        "worst_site_auroc", "worst site", "lowest validation AUROC at the selected round", _REPORT, "higher"
    ),
    StabilityFigure("drift", "drift", "how far the sites' updates scatter, in units of the common step", _CONSOLE),
    StabilityFigure(
        "coherence",
        "coherence",
        "share of the updates' squared length that does not cancel; 1 when all agree",
        _CONSOLE,
        "higher",
    ),
    StabilityFigure("update_cosine", "update cosine", "cosine between successive common steps", _CARD, None),
    StabilityFigure(
        "accumulated_variance",
        "accumulated variance",
        "scatter summed over rounds, in units of the squared steps",
        _STUDY,
    ),
    StabilityFigure(
        "rounds_to_target",
        "rounds to target",
        "first round at which the mean validation AUROC reaches the target",
        _CARD,
    ),
)


def stability_at(place: Place) -> list[StabilityFigure]:
    """The rows that a table shows, in order."""
    return [row for row in STABILITY_FIGURES if place in row.shown]
