"""Small cells: a count or a curve that stands on fewer source groups (patients) than a floor gives them away.

Such cells are pooled with their neighbours where order allows it (scores, calibration bins) and withheld otherwise (a
class, a field of the confusion matrix). Where one withheld cell would follow from a published total, a second one is
withheld beside it. Rates and means over all patches of a site stay exact, and what follows from them is not hidden. A
floor of 1 changes nothing. docs/privacy.md says what leaves a site in which form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.metrics.adaptive_bins import LEAST_GROUPS, equal_mass_cells
from medfl.metrics.auroc import BoolArray, FloatArray, IndexArray, IntArray
from medfl.metrics.calibration import CalibrationBins, ScoreSums, bin_edges, score_sums
from medfl.metrics.histograms import LOGIT_RANGE, ScoreHistograms, score_histograms
from medfl.metrics.targets import target_truth, targets


@dataclass(frozen=True)
class SmallCells:
    """What may be told of some patches of a site.

    Attributes:
        min_count: the least source groups behind a cell.
        labels: true classes [N]; group: source groups [N], any integers.
        classes: names of the C classes.
        malignant: classes that together are a further target, possibly none.
    """

    min_count: int
    labels: IntArray
    group: IntArray
    classes: Sequence[str]
    malignant: Sequence[str] = ()

    @property
    def enough(self) -> bool:
        """Whether anything may be told at all."""
        return len(np.unique(self.group)) >= self.min_count

    def part(self, chosen: BoolArray) -> SmallCells:
        """The same of some of the patches, bool[N]."""
        return replace(self, labels=self.labels[chosen], group=self.group[chosen])

    def withheld_classes(self) -> list[int]:
        """Classes [C] of which no figure of their own is told."""
        return withheld(groups_by_cell(self.labels, self.group, len(self.classes)), self.min_count)

    def shown_targets(self) -> BoolArray:
        """bool [M]: the targets of which a curve is told: each side has enough groups or none, and no class of it is
        withheld."""
        truth = target_truth(self.labels, self.classes, self.malignant)
        names = targets(self.classes, self.malignant)
        hidden = {self.classes[c] for c in self.withheld_classes()}
        shown = [name not in hidden for name in names]
        for m in range(len(names)):
            sides = [len(np.unique(self.group[side])) for side in (truth[:, m], ~truth[:, m])]
            shown[m] &= not any(0 < count < self.min_count for count in sides)
        return np.array(shown, dtype=bool)

    def scores(self, scores: FloatArray, deviations: float = 0.0) -> FloatArray:
        """Scores [N, M] of every target, each replaced by the mean of its cell; see `cell_means`. Positives and
        negatives have cells of their own.

        Args:
            deviations: by how many standard deviations of its cell a positive is put below the mean, so that a
                threshold chosen from cells still holds most of the cell's patches.
        """
        truth, result = target_truth(self.labels, self.classes, self.malignant), scores.copy()
        for m in np.flatnonzero(self.shown_targets()):
            for side, below in ((truth[:, m], deviations), (~truth[:, m], 0.0)):
                result[side, m] = cell_means(scores[side, m], self.group[side], self.min_count, below)
        return result

    def histograms(self, scores: FloatArray, deviations: float = 0.0) -> ScoreHistograms:
        """Histograms of the scores [N, M]; every bin that is not empty holds enough groups, and a target that is not
        shown has none."""
        truth = target_truth(self.labels, self.classes, self.malignant)
        counted = score_histograms(self.scores(scores, deviations), truth)
        shown = self.shown_targets()[:, None]
        return ScoreHistograms(counted.positive * shown, counted.negative * shown)

    def confusion(self, predicted: IntArray) -> BoolArray:
        """bool [C, C]: the fields of the confusion matrix that are withheld."""
        n = len(self.classes)
        groups = groups_by_cell(self.labels * n + predicted, self.group, n * n).reshape(n, n)
        hidden = np.zeros((n, n), dtype=bool)
        for row in range(n):
            hidden[row, withheld(groups[row], self.min_count)] = True
        hidden[self.withheld_classes()] = True
        return hidden

    def sums(self, probs: FloatArray, bins: int) -> ScoreSums:
        """`score_sums` of probabilities [N, C], with fields of the confusion matrix left out and bins pooled."""
        total = score_sums(probs, self.labels, bins)
        if self.min_count <= 1:
            return total
        hidden = self.confusion(probs.argmax(axis=1))
        left_out = np.where(hidden, total.confusion, 0.0)
        hits = float(np.trace(left_out))
        inner = bin_edges(bins)[1:-1]
        classwise = [
            self._pooled(_row(total.classwise, c), np.searchsorted(inner, probs[:, c], side="left"))
            for c in range(len(self.classes))
        ]
        return replace(
            total,
            confusion=total.confusion - left_out,
            left_out=np.array([hits, left_out.sum() - hits]),
            top=self._pooled(total.top, np.searchsorted(inner, probs.max(axis=1), side="left")),
            classwise=CalibrationBins(
                *(np.array([getattr(row, part) for row in classwise]) for part in CalibrationBins.__annotations__)
            ),
        )

    def adaptive_bins(self, probs: FloatArray) -> dict[str, list[Any]]:
        """Bins of about equal mass of the top probability of `probs` [N, C], as `medfl.metrics.adaptive_bins` has
        them."""
        confidence, right = probs.max(axis=1, initial=0.0), probs.argmax(axis=1) == self.labels
        cell = equal_mass_cells(confidence)
        made: dict[str, list[Any]] = {"count": [], "groups": [], "confidence": [], "accuracy": []}
        for first, last in _runs(cell, self.group, max(self.min_count, LEAST_GROUPS)):
            rows = (cell >= first) & (cell <= last)
            made["count"].append(int(rows.sum()))
            made["groups"].append(len(np.unique(self.group[rows])))
            made["confidence"].append(min(1.0, float(confidence[rows].mean())))
            made["accuracy"].append(float(right[rows].mean()))
        return made

    def _pooled(self, bins: CalibrationBins, cell: IndexArray) -> CalibrationBins:
        """Bins [B] of patches in these cells [N], joined until each holds enough groups; the joined ones stand in the
        bin of their mean confidence."""
        edges = bin_edges(len(bins.count))
        made = CalibrationBins(*(np.zeros_like(bins.count) for _ in CalibrationBins.__annotations__))
        for first, last in _runs(cell, self.group, self.min_count):
            part = slice(first, last + 1)
            count, confidence = bins.count[part].sum(), bins.confidence_sum[part].sum()
            at = int(np.clip(np.searchsorted(edges[1:-1], confidence / count, side="left"), first, last))
            for name in CalibrationBins.__annotations__:
                getattr(made, name)[at] += getattr(bins, name)[part].sum()
        return made

    def figures(self, measured: Mapping[str, Any], probs: FloatArray) -> dict[str, Any]:
        """The figures of `measure` as they may leave the site, with `withheld` where some of them may not."""
        named = [self.classes[c] for c in self.withheld_classes()]
        hidden = self.confusion(probs.argmax(axis=1)) if len(probs) else np.zeros((0, 0), dtype=bool)
        if not named and not hidden.any():
            return dict(measured)
        made = dict(measured)
        for key, value in measured.items():
            if key == "support":
                made[key] = value | {name: dict.fromkeys(value[name]) for name in named}
            elif key.endswith(("_per_class", "_per_class_ci")):
                made[key] = value | dict.fromkeys(named)
        made["confusion"] = [
            [None if hide else count for count, hide in zip(*row, strict=True)]
            for row in zip(measured["confusion"], hidden.tolist(), strict=True)
        ]
        return made | {"withheld": {"min_count": self.min_count, "all": False, "classes": named}}


def withheld(groups: Sequence[int] | NDArray[np.integer[Any]], min_count: int) -> list[int]:
    """Which of the cells with so many groups are withheld: those of 1 to `min_count` - 1, and where that is one alone
    the smallest other beside it, since their total is told."""
    small = [c for c, count in enumerate(groups) if 0 < count < min_count]
    others = [c for c, count in enumerate(groups) if count >= max(min_count, 1)]
    if len(small) == 1 and others:
        small.append(min(others, key=lambda c: (groups[c], c)))
    return sorted(small)


def groups_by_cell(cell: IntArray, group: IntArray, n_cells: int) -> IndexArray:
    """Distinct groups behind each of `n_cells` cells, from the cell [N] and the group [N] of every patch."""
    pairs = np.unique(np.stack([cell, group]), axis=1)
    return np.bincount(pairs[0], minlength=n_cells)


def cell_means(scores: FloatArray, group: IntArray, min_count: int, deviations: float = 0.0) -> FloatArray:
    """Scores [N] in cells of neighbours, from below, each of at least `min_count` groups; a score is replaced by the
    mean of its cell, on the logit scale. Equal scores are in one cell.

    Args:
        deviations: by how many standard deviations of the cell the value lies below its mean.
    """
    if min_count <= 1 or not len(scores):
        return scores
    small = 1.0 / (1.0 + np.exp(LOGIT_RANGE))
    inside = np.clip(scores, small, 1.0 - small)
    logits = np.log(inside) - np.log1p(-inside)
    order = np.argsort(logits, kind="stable")
    _, value = np.unique(logits[order], return_inverse=True)
    result = np.empty(len(scores))
    for first, last in _runs(value, group[order], min_count):
        rows = order[np.searchsorted(value, first) : np.searchsorted(value, last, side="right")]
        result[rows] = logits[rows].mean() - deviations * logits[rows].std()
    return np.asarray(1.0 / (1.0 + np.exp(-result)))


def _runs(cell: IntArray, group: IntArray, min_count: int) -> list[tuple[int, int]]:
    """(first, last) of the runs of cells, from below, in which at least `min_count` groups are; too few at the end
    join the run before."""
    runs: list[tuple[int, int]] = []
    if not len(cell):
        return runs
    seen: set[int] = set()
    first: int | None = None
    order = np.argsort(cell, kind="stable")
    cells, starts = np.unique(cell[order], return_index=True)
    for number, members in zip(cells.tolist(), np.split(group[order], starts[1:]), strict=True):
        first = number if first is None else first
        seen.update(members.tolist())
        if len(seen) >= min_count:
            runs.append((first, number))
            seen, first = set(), None
    if first is not None:
        begin = runs.pop()[0] if runs else first
        runs.append((begin, int(cells[-1])))
    return runs


def _row(bins: CalibrationBins, at: int) -> CalibrationBins:
    return bins.map(lambda sums: np.asarray(sums[at]))


def disclosed_rows(rows: Sequence[Mapping[str, str | int]], min_count: int) -> list[dict[str, str | int]]:
    """Rows of allocation_summary.csv with the counts of small classes blank."""
    made = [dict(row) for row in rows]
    for place in {(row["site"], row["split"]) for row in rows}:
        mine = [row for row in made if (row["site"], row["split"]) == place]
        for at in withheld([int(row["groups"]) for row in mine], min_count):
            mine[at] |= {"groups": "", "patches": ""}
    return made
