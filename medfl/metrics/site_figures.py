"""All that one site says about a finished model: figures of the calibrated probabilities beside those before,
sensitivity and specificity at thresholds chosen elsewhere, sums that merge with other sites', and curves to draw.

docs/metrics.md defines each; the keys are those of `summary.json` and `curves.json` (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.metrics.auroc import FloatArray, mean_auroc
from medfl.metrics.calibration import ScoreSums
from medfl.metrics.figures import Place, ScoredPatches, Style, figures_at, figures_before, finite
from medfl.metrics.histograms import sum_histograms
from medfl.metrics.measure import measure, reliability
from medfl.metrics.operating import operating_point
from medfl.metrics.roc import roc_band
from medfl.metrics.small_cells import SmallCells
from medfl.metrics.targets import target_scores, target_truth, targets

CURVES = 200
"""Resamples behind the band of an ROC curve, at most: it is looked at, not read off."""


@dataclass(frozen=True)
class SiteMeasurement:
    """What a site replies with. All of it is ready for JSON, and none of it is a single score.

    Attributes:
        figures: `measure` of the calibrated probabilities, and `ece_after`, `<figure>_before`, `operating`.
        sums: "after" and "before" (`ScoreSums`) and "histograms" (`ScoreHistograms`), as lists, and "min_count", the
            least source groups behind a cell of theirs.
        curves: "targets" (names), "roc" (target -> `roc_band`), "histograms" ("positive" and "negative" per target),
            "calibration" ("after" and "before": `medfl.metrics.adaptive_bins`).
    """

    figures: dict[str, Any]
    sums: dict[str, Any]
    curves: dict[str, Any]


def site_figures(
    probs: FloatArray,
    before: FloatArray,
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    classes: Sequence[str],
    *,
    malignant: Sequence[str] = (),
    thresholds: Mapping[str, float] | None = None,
    resamples: int = 0,
    seed: int = 0,
    bins: int = 15,
    min_count: int = 1,
) -> SiteMeasurement:
    """Measure a finished model on one site's patches.

    Args:
        probs: calibrated probabilities [N, C].
        before: probabilities at temperature 1, [N, C].
        labels, groups, classes, resamples, seed, bins: as for `measure`.
        malignant: classes that together are the target "malignant"; none, and there is no such target.
        thresholds: target -> score from which a patch is called positive; None leaves operating points out.
        min_count: the least source groups behind a cell of what is told (`medfl.metrics.small_cells`).

    Raises:
        ValueError: as `measure` does.
    """
    measured, uncalibrated = (
        measure(p, labels, groups, classes, resamples=resamples, seed=seed, bins=bins) for p in (probs, before)
    )
    names, group = np.unique(groups, return_inverse=True)
    cells = SmallCells(min_count, labels, group, classes, malignant)
    scores, truth = target_scores(probs, classes, malignant), target_truth(labels, classes, malignant)
    printed, shown = cells.scores(scores), cells.shown_targets()
    measured |= _before_calibration(measured, uncalibrated)
    measured["operating"], roc = {}, {}
    for m, target in enumerate(targets(classes, malignant)):
        side = (truth[:, m], group, len(names))
        if thresholds is not None:
            point = operating_point(scores[:, m], *side, thresholds.get(target), resamples=resamples, seed=seed)
            hidden = {} if shown[m] else dict.fromkeys(point.keys() - {"threshold"})
            measured["operating"][target] = point | hidden
        draws = min(resamples, CURVES)
        roc[target] = roc_band(printed[:, m], *side, resamples=draws, seed=seed) if shown[m] else None
    after, plain = cells.sums(probs, bins), cells.sums(before, bins)
    if "reliability" in measured:
        measured |= {"reliability": reliability(after), "reliability_before": reliability(plain)}
    histograms = cells.histograms(scores).to_lists()
    return SiteMeasurement(
        figures=cells.figures(measured, probs),
        sums={"after": after.to_lists(), "before": plain.to_lists(), "histograms": histograms, "min_count": min_count},
        curves={
            "targets": list(roc),
            "roc": roc,
            "histograms": histograms,
            "calibration": {"after": cells.adaptive_bins(probs), "before": cells.adaptive_bins(before)},
        },
    )


def _before_calibration(measured: Mapping[str, Any], uncalibrated: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that tell of calibration: `ece_after`, `ece_before`, `ece_before_ci`, ..."""
    entries = {f"{row.key}_after": measured[row.key] for row in figures_before(Style.INTERVAL)}
    for row in figures_before():
        entries[f"{row.key}_before"] = uncalibrated[row.key]
        if row.before is Style.INTERVAL and f"{row.key}_ci" in uncalibrated:
            entries[f"{row.key}_before_ci"] = uncalibrated[f"{row.key}_ci"]
    return entries


def pooled(sums: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any] | None:
    """Figures of all sites' patches together, from the `sums` of each site's `SiteMeasurement`; None without sites.

    Brier, NLL and accuracy are those of all scores at once. AUROC is that of scores rounded to their bin, and
    `auroc_resolution` bounds the difference. Where cells may have been pooled (`small_cells`) it is None, and AUROC and
    calibration errors are those of the pooled cells. No intervals: the sums do not say which patches belong together.
    """
    if not sums:
        return None
    after, before = (reduce(add, (ScoreSums.from_lists(s[key]) for s in sums.values())) for key in ("after", "before"))
    histograms = sum_histograms(s["histograms"] for s in sums.values())
    auroc, resolution = histograms.auroc()[: len(classes)], histograms.resolution()[: len(classes)]
    coarse = any(s["min_count"] > 1 for s in sums.values())
    calibrated, plain = ScoredPatches(after, auroc), ScoredPatches(before, auroc)
    merged: dict[str, Any] = {"sites": sorted(sums), "n": int(after.patches())}
    for row, style in figures_at(Place.POOLED).items():
        merged[row.key] = finite(row.value(calibrated))
        if row.key == "auroc":
            merged["auroc_resolution"] = None if coarse else finite(mean_auroc(resolution))
        if row.per_class is not None:
            merged[f"{row.key}_per_class"] = dict(zip(classes, map(finite, row.per_class(calibrated)), strict=True))
        if style is Style.CHANGE:
            merged[f"{row.key}_before"] = finite(row.value(plain))
    return merged | {
        "confusion": after.confusion.astype(int).tolist(),
        "left_out": after.left_out.astype(int).tolist(),
        "reliability": reliability(after),
        "reliability_before": reliability(before),
    }
