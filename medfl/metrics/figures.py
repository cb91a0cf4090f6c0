"""The table of figures: what is measured at a site, what it is called, and where it is shown.

A row says how a figure is computed, its label, direction and bounds, and in which tables it stands. `measure`, MLflow's
metric names, the console, report, model card, the tables of a study and the gates all read this table, so a new figure
of a site is one function and one row. Definitions: docs/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Literal

from medfl.metrics.auroc import FloatArray, IntArray, mean_auroc
from medfl.metrics.calibration import CalibrationBins, ScoreSums
from medfl.metrics.clustered_calibration import clustered_debiased_ece, noise_of_ece
from medfl.metrics.formatting import format_figure, format_interval
from medfl.metrics.intervals import LARGEST_BRIER, LARGEST_NLL, Intervals
from medfl.metrics.t_intervals import Interval

WORST_ECE = 0.25
"""Calibration error at which a heat map's colour is full; for the other figures that is where a guess would be."""


class Place(Enum):
    """A table that may show a figure. MLflow has all of them."""

    CONSOLE = auto()
    REPORT = auto()
    HEAT_MAP = auto()
    POOLED = auto()
    CARD = auto()
    STUDY_RUNS = auto()
    STUDY_SITES = auto()
    STUDY_VALIDATION = auto()


SITE_TABLES = (Place.CONSOLE, Place.REPORT, Place.CARD, Place.STUDY_SITES)


class Style(Enum):
    """How a table shows a figure."""

    VALUE = auto()
    INTERVAL = auto()
    CHANGE = auto()
    """The figure before calibration, then the one after it, with its interval where the table has room."""


@dataclass(frozen=True)
class ScoredPatches:
    """What a figure is computed from: the patches of a site, or the merged sums of several.

    Attributes:
        sums: of all patches, without leading axes.
        auroc_per_class: f64[C], nan where a class is not supported.
        loss: the training loss on these patches, where it differs from the NLL.
        probs, labels, by_group: f64[N, C], int[N], and bins of the top probability of every source group [G, B]; None
            where patches of several sites were merged, whose scores stay there.
    """

    sums: ScoreSums
    auroc_per_class: FloatArray
    loss: float | None = None
    probs: FloatArray | None = None
    labels: IntArray | None = None
    by_group: CalibrationBins | None = None

    def debiased_ece(self) -> float:
        """ECE without its noise: that of source groups where they are known, else of single patches."""
        return float(self.sums.debiased_ece()) if self.by_group is None else clustered_debiased_ece(self.by_group)


@dataclass(frozen=True, eq=False)
class SiteFigure:
    """One row of the table; rows are compared and hashed as objects.

    Attributes:
        key: its name in a round record, in `summary.json` and in MLflow.
        label: its name in words; `short` that above a narrow column.
        value: the figure of some patches; nan where it is not available.
        direction: which way is better.
        bounds: the least and the largest value it can have.
        per_class: its value for each class, f64[C], kept as `<key>_per_class`.
        interval: its 95 % interval, kept as `<key>_ci`.
        guess: what guessing between C classes would give.
        before: how it is also kept for the probabilities before calibration, as `<key>_before`.
        grouped: whether its mean over the sites of a role and its value at the worst of them are part of a result.
        marks_few: whether its interval is marked where few source groups stand behind it.
        digits: after the point.
        shown: the tables that show it, and how.
    """

    key: str
    label: str
    value: Callable[[ScoredPatches], FloatArray | float]
    direction: Literal["higher", "lower"]
    bounds: tuple[float, float]
    short: str = ""
    per_class: Callable[[ScoredPatches], FloatArray] | None = None
    interval: Callable[[Intervals], Interval | None] | None = None
    guess: Callable[[int], float] | None = None
    before: Style | None = None
    grouped: bool = False
    marks_few: bool = False
    digits: int = 3
    shown: Mapping[Place, Style] = field(default_factory=dict)

    @property
    def best(self) -> float:
        """The value of a perfect model."""
        return self.bounds[1 if self.direction == "higher" else 0]

    @property
    def heading(self) -> str:
        """Its name above a narrow column."""
        return self.short or self.label

    def worst(self, values: Iterable[float]) -> float | None:
        """The worst of the values; None without any."""
        return (min if self.direction == "higher" else max)(values, default=None)

    def depth(self, value: float | None, classes: int) -> float | None:
        """How far a value is on the way from perfect (0) to what guessing gives (1); None without a value."""
        if value is None or self.guess is None:
            return None
        return min(1.0, max(0.0, (value - self.best) / (self.guess(classes) - self.best)))

    def of(self, entry: Mapping[str, Any]) -> float | None:
        """The figure of a site."""
        value: float | None = entry.get(self.key)
        return value

    def format(self, entry: Mapping[str, Any]) -> str:
        """The figure of a site, without its interval."""
        return format_figure(self.of(entry), f".{self.digits}f")

    def format_interval(self, entry: Mapping[str, Any]) -> str:
        """The figure of a site with its interval."""
        few = self.marks_few and bool(entry.get("few_groups"))
        return format_interval(self.of(entry), entry.get(f"{self.key}_ci"), self.digits, few)

    def format_before(self, entry: Mapping[str, Any]) -> str:
        """The figure of a site before calibration."""
        return format_figure(entry.get(f"{self.key}_before"), f".{self.digits}f")


FIGURES: tuple[SiteFigure, ...] = (
    SiteFigure(
        "auroc",
        "AUROC",
        lambda patches: mean_auroc(patches.auroc_per_class),
        "higher",
        (0.0, 1.0),
        per_class=lambda patches: patches.auroc_per_class,
        interval=lambda intervals: intervals.auroc,
        guess=lambda classes: 0.5,
        grouped=True,
        marks_few=True,
        shown={
            Place.CONSOLE: Style.INTERVAL,
            Place.REPORT: Style.INTERVAL,
            Place.HEAT_MAP: Style.VALUE,
            Place.POOLED: Style.VALUE,
            Place.CARD: Style.INTERVAL,
            Place.STUDY_RUNS: Style.INTERVAL,
            Place.STUDY_SITES: Style.INTERVAL,
            Place.STUDY_VALIDATION: Style.VALUE,
        },
    ),
    SiteFigure(
        "balanced_accuracy",
        "balanced accuracy",
        lambda patches: patches.sums.balanced_accuracy(),
        "higher",
        (0.0, 1.0),
        short="bal. acc.",
        interval=lambda intervals: intervals.balanced_accuracy,
        guess=lambda classes: 1 / classes,
        shown={
            Place.CONSOLE: Style.VALUE,
            Place.REPORT: Style.VALUE,
            Place.HEAT_MAP: Style.VALUE,
            Place.CARD: Style.INTERVAL,
            Place.STUDY_SITES: Style.VALUE,
            Place.STUDY_VALIDATION: Style.VALUE,
        },
    ),
    SiteFigure(
        "accuracy",
        "accuracy",
        lambda patches: patches.sums.accuracy(),
        "higher",
        (0.0, 1.0),
        guess=lambda classes: 1 / classes,
        shown={Place.HEAT_MAP: Style.VALUE, Place.POOLED: Style.VALUE},
    ),
    SiteFigure(
        "loss",
        "loss",
        lambda patches: patches.sums.nll() if patches.loss is None else patches.loss,
        "lower",
        (0.0, math.inf),
    ),
    SiteFigure(
        "ece",
        "ECE",
        lambda patches: patches.sums.ece(),
        "lower",
        (0.0, 1.0),
        interval=lambda intervals: intervals.ece,
        guess=lambda classes: WORST_ECE,
        before=Style.INTERVAL,
        grouped=True,
        shown={
            Place.CONSOLE: Style.CHANGE,
            Place.REPORT: Style.CHANGE,
            Place.HEAT_MAP: Style.VALUE,
            Place.POOLED: Style.CHANGE,
            Place.CARD: Style.CHANGE,
            Place.STUDY_RUNS: Style.CHANGE,
            Place.STUDY_SITES: Style.CHANGE,
        },
    ),
    SiteFigure(
        "debiased_ece",
        "debiased ECE",
        lambda patches: patches.debiased_ece(),
        "lower",
        (0.0, 1.0),
        guess=lambda classes: WORST_ECE,
        before=Style.VALUE,
        grouped=True,
        shown=dict.fromkeys((*SITE_TABLES, Place.POOLED), Style.VALUE),
    ),
    SiteFigure(
        "ece_noise",
        "ECE by noise alone",
        lambda patches: math.nan if patches.by_group is None else noise_of_ece(patches.by_group),
        "lower",
        (0.0, 1.0),
        short="noise alone",
        grouped=True,
        shown=dict.fromkeys(SITE_TABLES, Style.VALUE),
    ),
    SiteFigure(
        "classwise_ece",
        "classwise ECE",
        lambda patches: patches.sums.classwise_ece(),
        "lower",
        (0.0, 1.0),
        interval=lambda intervals: intervals.classwise_ece,
        guess=lambda classes: WORST_ECE,
        before=Style.VALUE,
        shown={Place.HEAT_MAP: Style.VALUE, Place.POOLED: Style.VALUE},
    ),
    SiteFigure(
        "brier",
        "Brier",
        lambda patches: patches.sums.brier(),
        "lower",
        (0.0, LARGEST_BRIER),
        interval=lambda intervals: intervals.brier,
        guess=lambda classes: 1 - 1 / classes,
        before=Style.VALUE,
        shown={
            Place.CONSOLE: Style.VALUE,
            Place.REPORT: Style.VALUE,
            Place.HEAT_MAP: Style.VALUE,
            Place.POOLED: Style.VALUE,
            Place.CARD: Style.INTERVAL,
            Place.STUDY_SITES: Style.VALUE,
        },
    ),
    SiteFigure(
        "nll",
        "NLL",
        lambda patches: patches.sums.nll(),
        "lower",
        (0.0, LARGEST_NLL),
        interval=lambda intervals: intervals.nll,
        guess=math.log,
        before=Style.VALUE,
        grouped=True,
        shown=dict.fromkeys((*SITE_TABLES, Place.HEAT_MAP, Place.POOLED, Place.STUDY_VALIDATION), Style.VALUE),
    ),
)


def add_figure(row: SiteFigure) -> None:
    """Let this process measure one more figure of a site. Every party of a run has to: what a site elsewhere replies is
    held against the table. Raises ValueError for a key that is in the table."""
    global FIGURES
    if any(row.key == other.key for other in FIGURES):
        raise ValueError(f"the table has a figure {row.key} already; choose another key")
    FIGURES = (*FIGURES, row)


def figures_at(place: Place) -> dict[SiteFigure, Style]:
    """The rows that a table shows, in the order of their columns, and how."""
    return {row: row.shown[place] for row in FIGURES if place in row.shown}


def figure(key: str) -> SiteFigure:
    """The row of this key. Raises KeyError where there is none."""
    return {row.key: row for row in FIGURES}[key]


def figures_before(style: Style | None = None) -> list[SiteFigure]:
    """The rows that are also kept before calibration; with `style` those that are kept in this way."""
    return [row for row in FIGURES if row.before is not None and style in (None, row.before)]


def grouped_figures() -> list[SiteFigure]:
    """The rows whose mean and worst value over the sites of a role are part of a result."""
    return [row for row in FIGURES if row.grouped]


def finite(value: FloatArray | float) -> float | None:
    """A figure as JSON knows it: None where it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None
