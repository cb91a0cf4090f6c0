"""The columns of runs.csv that are figures: what each is made of, which way is better, what bounds it has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from medfl.metrics.figures import FIGURES, Place, SiteFigure, Style, figures_at
from medfl.metrics.stability_figures import STABILITY_FIGURES, stability_at
from medfl.metrics.t_intervals import Interval
from medfl.metrics.units import UNITS

STABILITY = tuple(row.key for row in stability_at(Place.STUDY_RUNS))
OWN = "val_personalised"
PERSONAL = f"{OWN}_balanced_accuracy"
"""Mean of what the models that sites keep for themselves reach on their validation data after the last round."""
COSTS = ("megabytes", "virtual_seconds")
UNIT_ROLES = {
    f"{role}_{unit}": (word, f" per {unit}")
    for role, word in (("held_out", "held-out"), ("train", "training"))
    for unit in UNITS.values()
}
"""Beginning of the columns per slide and per patient -> the role of the sites, and the unit, in words."""


def group_columns() -> list[str]:
    """The figures over the sites of one role that runs.csv has: a mean and the worst, or the mean before and after."""
    columns = []
    for row, style in figures_at(Place.STUDY_RUNS).items():
        change = style is Style.CHANGE
        columns += [f"mean_{row.key}_before", f"mean_{row.key}"] if change else [f"mean_{row.key}", f"worst_{row.key}"]
    return columns


def validation_columns() -> list[str]:
    """The figures whose mean over the training sites' validation data runs.csv has."""
    return [f"val_mean_{row.key}" for row in figures_at(Place.STUDY_VALIDATION)]


def validation_figures() -> list[str]:
    """The figures of validation data that runs.csv has, those of the models that sites keep among them."""
    return [*validation_columns(), PERSONAL]


def figure_of(column: str) -> SiteFigure | None:
    """The row of the table of figures that a column of runs.csv is made of; None for stability, bytes and time."""
    for row in FIGURES:
        means = {f"{part}_mean_{row.key}" for part in (*UNIT_ROLES, "held_out", "train", "val")} | {f"{OWN}_{row.key}"}
        worst = {f"{part}_worst_{row.key}" for part in (*UNIT_ROLES, "held_out", "train")}
        if column.removesuffix("_before") in means | worst:
            return row
    return None


def over_folds(column: str, values: Sequence[float | None]) -> float | None:
    """A column of one repeat from that of its folds: the worst is the worst of all; anything else is a mean, which
    needs every fold."""
    present = [value for value in values if value is not None]
    row = figure_of(column)
    if row is not None and "_worst_" in column:
        return row.worst(present)
    return sum(present) / len(values) if len(present) == len(values) else None


def run_figures() -> list[str]:
    """The columns of runs.csv that are averaged and compared."""
    return [
        *(f"{role}_{column}" for role in ("held_out", "train") for column in group_columns()),
        *(f"{role}_{column}" for role in UNIT_ROLES for column in group_columns()),
        *validation_figures(),
        *STABILITY,
        *(f"inertia_{part}" for part in ("first", "middle", "last")),
        *COSTS,
    ]


def bounds(column: str) -> Interval | None:
    """The least and the largest value of a column of runs.csv; None where it has none, as stability and bytes."""
    row = figure_of(column)
    return row.bounds if row is not None and math.isfinite(row.bounds[1]) else None


def direction(column: str) -> Literal["higher", "lower"] | None:
    """Which way of a column of runs.csv is better; None where no way is, as of the update cosine."""
    if column in COSTS:
        return "lower"
    if (row := figure_of(column)) is not None:
        return row.direction
    return next((stability.direction for stability in STABILITY_FIGURES if stability.key == column), None)


def figure_title(column: str) -> str:
    """A column in words: `held_out_mean_auroc` is "mean AUROC at held-out sites"."""
    parts = {"held_out": ("held-out", ""), "train": ("training", ""), "val": ("training", "")} | UNIT_ROLES
    for part, (word, per) in parts.items():
        data = " on validation data" if part == "val" else ""
        for row in FIGURES:
            if column == f"{part}_mean_{row.key}":
                return f"mean {row.label}{per} at {word} sites{data}"
            if column == f"{part}_mean_{row.key}_before":
                return f"mean {row.label}{per} at {word} sites before calibration"
            if column == f"{part}_worst_{row.key}":
                return f"{row.label}{per} at the worst {word} site"
    if column.startswith(OWN) and (row_of := figure_of(column)) is not None:
        return f"mean {row_of.label} of the sites' own models on validation data"
    labels = {row.key: row.label for row in STABILITY_FIGURES}
    return labels.get(column, column.replace("_", " "))
