"""Subgroups of a site's patches, by scanner, by sex, by any column of its table: what is told of each, and over sites.

A subgroup of fewer source groups than the disclosure floor is withheld, and where that is one alone the smallest other
beside it. Of the others a site tells rates and means, and no count by class; sums that merge with those of other sites
only where each class has enough source groups, so that no difference to the site's own sums tells of few.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.metrics.auroc import BoolArray
from medfl.metrics.calibration import ScoreSums
from medfl.metrics.figures import finite, grouped_figures
from medfl.metrics.histograms import sum_histograms
from medfl.metrics.operating import RATES
from medfl.metrics.site_figures import SiteMeasurement, pooled
from medfl.metrics.small_cells import SmallCells, withheld
from medfl.metrics.targets import MALIGNANT, targets
from medfl.metrics.units import shown_points

NOT_STATED = "not stated"
"""The value of patches of which the column says nothing."""
MOST_VALUES, LONGEST_VALUE = 12, 40
"""Values of a column, and characters of one, at most."""
BIN = re.compile(r"(below )?(-?[0-9.e+-]+)(?: to \S+| and above)?")
POOLED = ("sites", "n", "auroc", "auroc_resolution", "ece", "debiased_ece")
"""Figures of `pooled` that a subgroup has, too."""
DIFFERENT = ("auroc", "sensitivity")
"""Figures of which the difference between subgroups is told."""


@dataclass(frozen=True)
class SubgroupColumn:
    """One column of a site's table.

    Attributes:
        name: as the pipeline has it.
        values: the V values, in order.
        codes: value of each patch i64[N], -1 where none is stated.
    """

    name: str
    values: tuple[str, ...]
    codes: NDArray[np.int64]

    def of(self, rows: NDArray[Any]) -> SubgroupColumn:
        """The column of some patches, by their numbers or bool[N]."""
        return replace(self, codes=self.codes[rows])

    @property
    def cells(self) -> dict[str, BoolArray]:
        """Value -> which patches have it, bool[N]; those of which nothing is stated last."""
        parts = {value: self.codes == code for code, value in enumerate(self.values)}
        return {value: part for value, part in (parts | {NOT_STATED: self.codes < 0}).items() if part.any()}


def bin_names(edges: Sequence[float]) -> list[str]:
    """What the bins between edges are called: `below 50`, `50 to 65` (without 65), `65 and above`."""
    inner = [f"{low:.12g} to {high:.12g}" for low, high in itertools.pairwise(edges)]
    return [f"below {edges[0]:.12g}", *inner, f"{edges[-1]:.12g} and above"]


def value_order(value: str) -> tuple[int, float, int, str]:
    """A key by which bins are sorted by their numbers, words behind them, and what is not stated last."""
    try:
        match = BIN.fullmatch(value)
        return (0, float(match[2]), not match[1], value) if match else (1 + (value == NOT_STATED), 0.0, 0, value)
    except ValueError:
        return (1, 0.0, 0, value)


def subgroup_measurement(
    columns: Sequence[SubgroupColumn], cells: SmallCells, measured: Callable[[BoolArray], SiteMeasurement]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a site tells of its subgroups: {column: {"values": {value: figures}, "withheld": how many values}}, and the
    sums {column: {value: `sums` of its `SiteMeasurement`}} of those whose sums are told.

    Args:
        columns: of the site's N patches.
        cells: these patches.
        measured: measures some of them, bool[N].
    """
    figures: dict[str, Any] = {}
    sums: dict[str, Any] = {}
    for column in columns:
        parts = column.cells
        counts = [len(np.unique(cells.group[part])) for part in parts.values()]
        names = list(parts)
        hidden = {names[at] for at in withheld(counts, cells.min_count)}
        made = {value: measured(part) for value, part in parts.items() if value not in hidden}
        figures[column.name] = {
            "values": {value: _told(own.figures, cells.min_count) for value, own in made.items()},
            "withheld": len(hidden),
        }
        whole = [value for value in made if cells.part(parts[value]).shown_targets().all()]
        if len(whole) == len(names) - 1 and whole:  # one alone would follow from the site's own sums
            whole.remove(min(whole, key=lambda value: (counts[names.index(value)], value)))
        sums[column.name] = {value: _without_confusion(made[value].sums, cells.min_count) for value in whole}
    return figures, sums


def kept_figures() -> set[str]:
    """Keys of `site_figures` that a subgroup has."""
    keys = {row.key for row in grouped_figures()}
    return {"n", "n_groups", "few_groups", "auroc_se", "auroc_df", "auroc_least"} | keys | {f"{key}_ci" for key in keys}


def _told(figures: Mapping[str, Any], min_count: int) -> dict[str, Any]:
    """The figures of a subgroup, rates at the threshold of what is malignant among them, without counts by class."""
    kept = kept_figures()
    sides = dict.fromkeys(("positives", "negatives")) if min_count > 1 else {}
    chosen = {key: value for key, value in figures.items() if key in kept}
    return chosen | {"operating": {target: {**point, **sides} for target, point in shown_points(figures).items()}}


def _without_confusion(sums: Mapping[str, Any], min_count: int) -> dict[str, Any]:
    """The same sums, of the confusion matrix only how many were right and wrong."""
    if min_count <= 1:
        return dict(sums)
    made = dict(sums)
    for key in ("after", "before"):
        own = ScoreSums.from_lists(sums[key])
        hits = np.trace(own.confusion)
        left_out = own.left_out + np.array([hits, own.confusion.sum() - hits])
        made[key] = replace(own, confusion=np.zeros_like(own.confusion), left_out=left_out).to_lists()
    return made


def columns_in(sites: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The columns of which some site of `summary.json` has figures of subgroups, in the order of the pipeline."""
    return list(dict.fromkeys(column for entry in sites.values() for column in entry.get("subgroups") or {}))


def subgroup_values(sites: Mapping[str, Mapping[str, Any]], column: str) -> list[str]:
    """The values of a column of which some site tells figures, in order."""
    present = {value for entry in sites.values() for value in column_values(entry.get("subgroups"), column)}
    return sorted(present, key=value_order)


def column_values(subgroups: Mapping[str, Any] | None, column: str) -> Mapping[str, Mapping[str, Any]]:
    """Value -> figures, of the `subgroups` of a site of `summary.json` or of those over sites; empty without any."""
    values: Mapping[str, Mapping[str, Any]] = ((subgroups or {}).get(column) or {}).get("values") or {}
    return values


def subgroup_sites(sites: Mapping[str, Mapping[str, Any]], column: str, value: str) -> dict[str, dict[str, Any]]:
    """Site -> its role and its figures of a subgroup, of the sites that tell them."""
    entries = {name: column_values(entry.get("subgroups"), column).get(value) for name, entry in sites.items()}
    return {name: {**own, "role": sites[name]["role"]} for name, own in entries.items() if own}


def malignant_rates(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Sensitivity and specificity of a subgroup for what is malignant, with their intervals; None where not told."""
    point = (entry.get("operating") or {}).get(MALIGNANT) or {}
    return {key: point.get(key) for rate in RATES for key in (rate, f"{rate}_ci")}


def difference(values: Mapping[str, float | None]) -> dict[str, Any] | None:
    """The largest less the smallest of a figure over the subgroups that have it, and which they are; None of fewer than
    two. What is not stated is no subgroup."""
    numbers = {value: number for value, number in values.items() if number is not None and value != NOT_STATED}
    if len(numbers) < 2:
        return None
    largest, smallest = max(numbers, key=lambda v: numbers[v]), min(numbers, key=lambda v: numbers[v])
    return {"value": numbers[largest] - numbers[smallest], "largest": largest, "smallest": smallest}


def site_differences(entry: Mapping[str, Any], column: str) -> dict[str, Any]:
    """`difference` of each of `DIFFERENT` between the subgroups of one site; without those that it cannot tell."""
    values = column_values(entry.get("subgroups"), column)
    made = {
        key: difference({value: {**own, **malignant_rates(own)}.get(key) for value, own in values.items()})
        for key in DIFFERENT
    }
    return {key: own for key, own in made.items() if own is not None}


def pooled_subgroups(
    sums: Mapping[str, Mapping[str, Any]],
    classes: Sequence[str],
    malignant: Sequence[str] = (),
    threshold: float | None = None,
) -> dict[str, Any]:
    """Figures of the patches of all sites together, {column: {value: figures}}, from the sums of subgroups that sites
    tell; empty where none does.

    Args:
        sums: site -> `sums` of its measurement, whose "subgroups" are read.
        classes, malignant: of the task.
        threshold: of what is malignant; None, and there are no rates.
    """
    parts: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = {}
    for site, own in sums.items():
        for column, values in (own.get("subgroups") or {}).items():
            for value, part in values.items():
                parts.setdefault(column, {}).setdefault(value, {})[site] = part
    names = targets(classes, malignant)
    at = names.index(MALIGNANT) if threshold is not None and MALIGNANT in names else None
    result: dict[str, Any] = {}
    for column, by_value in parts.items():
        result[column] = {}
        for value in sorted(by_value, key=value_order):
            own = by_value[value]
            merged = pooled(own, classes) or {}
            rates: dict[str, Any] = {}
            if at is not None and threshold is not None:
                total = sum_histograms([part["histograms"] for part in own.values()])
                rates = dict(zip(RATES, (finite(rate[at]) for rate in total.rates(threshold)), strict=True))
            result[column][value] = {key: merged[key] for key in POOLED} | rates
    return result
