"""Charts as inline SVG: lines by round, stacked bars, reliability diagrams, ROC curves, confusion matrices, cells.

Every function takes `name`, unique on its page, and `finding`, what the picture shows in one sentence. Colours are
tokens of `style.TOKENS`. Widths are CSS pixels at which the text has its natural size; the page scales the picture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from medfl.metrics.adaptive_bins import Bins, noise_bands
from medfl.plain_text import shortened, visible
from medfl.report.chart_style import axes, canvas, chart, class_look, colour

Values = Sequence[float | None]
WIDTH = 340.0
SMALL = 172.0
FEW_POINTS = 14
"""Up to so many points a line shows each of them."""
DOTTED = (0, (2, 2))


@dataclass(frozen=True)
class Line:
    """One line of a chart, with the band around it where `low` and `high` are given; None leaves a gap.

    Attributes:
        token: its colour.
        style: matplotlib's line style; "" draws the band only.
    """

    x: Sequence[float]
    y: Values
    token: str = "after"
    style: str = "-"
    low: Values | None = None
    high: Values | None = None
    band: str | None = None


@chart
def lines(
    series: Sequence[Line],
    *,
    name: str,
    finding: str,
    xlabel: str = "round",
    ylim: tuple[float, float] | None = None,
    mark: float | None = None,
    level: float | None = None,
    width: float = WIDTH,
    height: float = 200.0,
) -> Figure:
    """Lines over rounds.

    Args:
        ylim: limits of the y axis; by default around the values.
        mark: x of a vertical mark (the selected round).
        level: y of a thin reference line.
    """
    figure = canvas(width, height)
    ax = axes(figure, 46, 10, 10, 36)
    for line in series:
        if line.low is not None and line.high is not None:
            low, high = _numbers(line.low), _numbers(line.high)
            ax.fill_between(line.x, low, high, color=colour(line.band or line.token), alpha=0.18, linewidth=0)
        if line.style:
            marker = "o" if len(line.x) <= FEW_POINTS else None
            ax.plot(line.x, _numbers(line.y), color=colour(line.token), linestyle=line.style, marker=marker)
    if level is not None:
        ax.axhline(level, color=colour("quiet"), linewidth=0.8)
    if mark is not None:
        ax.axvline(mark, color=colour("mark"), linewidth=1.2, linestyle=DOTTED)
    if ylim:
        ax.set_ylim(*ylim)
    _rounds(ax, xlabel, [x for line in series for x in line.x])
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return figure


@chart
def bars(rows: Sequence[tuple[str, Sequence[int]]], *, name: str, finding: str) -> Figure:
    """Stacked bars of counts, one a row with its total at the end; parts in class order and class colours.

    Args:
        rows: (label, count per class).
    """
    figure = canvas(WIDTH, 6 + 22 * len(rows))
    ax = axes(figure, 36, 2, 46, 4)
    longest = max((sum(counts) for _, counts in rows), default=1) or 1
    for index, (_, counts) in enumerate(rows):
        start = 0
        for label, count in enumerate(counts):
            if count:
                ax.barh(index, count, left=start, height=0.72, linewidth=0, **class_look(label))
            start += count
        ax.text(start + 0.02 * longest, index, f"{start:,}", color=colour("quiet"), va="center", fontsize=10.5)
    ax.set_xlim(0, longest)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks(range(len(rows)), [visible(label) for label, _ in rows])
    ax.set_xticks([])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return figure


@chart
def reliability(after: Bins, before: Bins | None = None, *, name: str, finding: str) -> Figure:
    """Accuracy by confidence in bins of about equal mass, with where noise alone would put the accuracy of each.

    Args:
        after, before: bins of `medfl.metrics.adaptive_bins`.
    """
    figure = canvas(WIDTH, 216)
    ax = axes(figure, 46, 10, 12, 38)
    for x, (low, high) in zip(after["confidence"], noise_bands(after), strict=True):
        ax.plot([x, x], [low, high], color=colour("quiet"), linewidth=9.0, alpha=0.25, solid_capstyle="butt")
    ax.plot([0, 1], [0, 1], color=colour("quiet"), linewidth=1.0, linestyle=DOTTED)
    if before is not None:
        _bins(ax, before, "before")
    _bins(ax, after, "after")
    ticks = [0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"]
    ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", xlabel="confidence")
    ax.set_xticks(*ticks)
    ax.set_yticks(*ticks)
    ax.yaxis.set_label_coords(-32 / (WIDTH - 58), 0.5)
    return figure


def _bins(ax: Axes, bins: Bins, token: str) -> None:
    """One reliability curve: hollow and dashed before calibration, solid after it."""
    tone, is_after = colour(token), token == "after"
    ax.plot(
        bins["confidence"],
        bins["accuracy"],
        color=tone,
        linewidth=1.6 if is_after else 1.2,
        linestyle="-" if is_after else "--",
        marker="o",
        markersize=5.0,
        markerfacecolor=tone if is_after else "none",
        clip_on=False,
        zorder=3,
    )


@chart
def roc(curve: Mapping[str, Sequence[float]], token: str = "after", *, name: str, finding: str) -> Figure:
    """One ROC curve with its band: {"fpr", "tpr", "low", "high"}."""
    figure = canvas(SMALL, SMALL)
    ax = axes(figure, 28, 8, 8, 28)
    ax.plot([0, 1], [0, 1], color=colour("quiet"), linewidth=0.9, linestyle=DOTTED)
    if curve.get("low") and curve.get("high"):
        ax.fill_between(curve["fpr"], curve["low"], curve["high"], color=colour(token), alpha=0.22, linewidth=0)
    ax.plot(curve["fpr"], curve["tpr"], color=colour(token), clip_on=False)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([0, 0.5, 1], ["0", ".5", "1"])
    return figure


@chart
def cells(
    rows: Sequence[str], columns: Sequence[int], values: Sequence[Values], *, name: str, finding: str, width: float
) -> Figure:
    """Rows by rounds, each cell as full as its value on a logarithmic scale from the smallest to the largest."""
    figure = canvas(width, 44 + 22 * len(rows))
    ax = axes(figure, 92, 6, 10, 38)
    logarithms = [math.log(v) for row in values for v in row if v]
    low, high = min(logarithms, default=0.0), max(logarithms, default=0.0)
    step = min((b - a for a, b in itertools.pairwise(columns)), default=1)
    for index, row in enumerate(values):
        for column, value in zip(columns, row, strict=True):
            if value:
                share = (math.log(value) - low) / (high - low) if high > low else 1.0
                box = Rectangle((column - step / 2, index), step, 1, facecolor=colour("heat"), linewidth=0)
                box.set_alpha(0.04 + 0.96 * share)
                ax.add_patch(box)
    first, last = (columns[0], columns[-1]) if columns else (0, 0)
    ax.set(ylim=(len(rows), 0))
    ax.set_yticks([i + 0.5 for i in range(len(rows))], [shortened(row, 14) for row in rows])
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    _rounds(ax, "round", columns)
    ax.set_xlim(first - step / 2, last + step / 2)
    return figure


def _numbers(values: Values) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _rounds(ax: Axes, xlabel: str, xs: Sequence[float]) -> None:
    """An x axis of whole numbers from the first to the last; a single one gets room on both sides."""
    first, last = min(xs, default=0), max(xs, default=0)
    room = 0.02 * (last - first) or 0.5
    ax.set_xlim(first - room, last + room)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    ax.set_xlabel(xlabel)
    ax.grid(axis="x", visible=False)
    ax.spines["left"].set_visible(False)
