"""Charts of a study: dots with intervals by method, wins and losses, small learning curves. See `charts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from medfl.plain_text import shortened
from medfl.report.chart_style import axes, canvas, chart, colour
from medfl.report.charts import SMALL, WIDTH

ROW, LINE, BOTTOM = 21.0, 13.0, 36.0
LETTER = 6.4
"""Width of a letter at the size of labels."""
LONGEST = 20
REACH = 1.0
"""Intervals are drawn to so many spans of the means and dots beyond these; what goes on further ends in an arrow."""
MOST_POINTS = 120
MANY_DECADES = 300.0
"""From this ratio of its ends on, a logarithmic axis is labelled at powers of ten only."""
WINS, TIES, LOSSES = "after", "rule", "before"


@dataclass(frozen=True)
class Dots:
    """A row of a dot chart.

    Attributes:
        mean: the large dot; None where there is none.
        ends: the interval around it.
        points: the small dots, one a seed.
        beside: words at the row's end.
        minor: grey: a bracket.
        outer: another interval, drawn thin.
    """

    label: str
    mean: float | None
    ends: tuple[float, float] | None = None
    points: Sequence[float] = ()
    beside: str = ""
    minor: bool = False
    outer: tuple[float, float] | None = None


@dataclass(frozen=True)
class Level:
    """A vertical line of a dot chart, with a word above it."""

    at: float
    word: str
    dashed: bool = False


@chart
def dots(
    rows: Sequence[Dots],
    *,
    name: str,
    finding: str,
    xlabel: str,
    levels: Sequence[Level] = (),
    signed: bool = False,
    log: bool = False,
    zero: bool = False,
    span: tuple[float, float] | None = None,
    lines: int = 0,
) -> Figure:
    """One row a method: the mean as a large dot, its interval as a line, the seeds as small dots below.

    A mean without interval and seeds is hollow.

    Args:
        levels: vertical lines, at most two.
        signed: numbers of the axis with their sign.
        log: a logarithmic axis; all values above zero.
        zero: let the axis reach down to zero.
        span: what the axis must show, of `span_of`; by default everything.
        lines: lines of words above the plot, for charts that are to stand side by side.
    """
    beside = max((len(row.beside) for row in rows), default=0)
    figure, ax = _by_row([row.label for row in rows], beside, max(lines, len(levels)))
    low, high = span or span_of(rows, levels)
    if log:
        ax.set_xscale("log")
        ax.set_xlim(low / 1.2, high * 1.2)
    else:
        low = min(0.0, low) if zero else low
        room = 0.04 * (high - low) or 0.01
        ax.set_xlim(low - room, high + room)
    left, right = ax.get_xlim()
    for level in levels:
        ax.axvline(level.at, color=colour("quiet"), linewidth=1.1, linestyle="--" if level.dashed else "-", zorder=1)
    for index, row in enumerate(rows):
        _dots(ax, index, row, left, right)
    _words(ax, levels, left, right)
    if log:
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1.0,) if right / left > MANY_DECADES else (1.0, 3.0)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value, signed)))
    ax.set_xlabel(xlabel)
    return figure


def span_of(rows: Sequence[Dots], levels: Sequence[Level] = ()) -> tuple[float, float]:
    """An axis with room for all means, seeds and lines, and for intervals as far as `REACH` lets them."""
    inner = [level.at for level in levels] + [value for row in rows for value in row.points]
    inner += [row.mean for row in rows if row.mean is not None]
    if not inner:
        return 0.0, 1.0
    low, high = min(inner), max(inner)
    span = (high - low) or 0.01
    ends = [end for row in rows for pair in (row.ends, row.outer) if pair for end in pair]
    return max(min([low, *ends]), low - REACH * span), min(max([high, *ends]), high + REACH * span)


def _dots(ax: Axes, index: int, row: Dots, left: float, right: float) -> None:
    tone = colour("quiet" if row.minor else "after")
    ax.plot(row.points, [index + 0.3] * len(row.points), "o", color=colour("quiet"), markersize=2.6, alpha=0.75)
    for ends, width in ((row.outer, 0.9), (row.ends, 2.4)):
        if ends:
            ax.plot(ends, [index, index], color=tone, linewidth=width)
    means = [row.mean] if row.mean is not None else []
    fill = tone if row.ends or row.points else colour("paper")
    ax.plot(means, [index] * len(means), "o", color=tone, markerfacecolor=fill, markersize=6.0, zorder=4)
    values = [*row.points, *means, *(row.ends or ()), *(row.outer or ())]
    for edge, marker, beyond in (
        (left, "<", min(values, default=left) < left),
        (right, ">", max(values, default=right) > right),
    ):
        if beyond:
            ax.plot([edge], [index], marker, color=tone, markersize=5.0, clip_on=False, zorder=5)
    _beside(ax, index, row.beside, "quiet" if row.minor else "ink")


def _words(ax: Axes, levels: Sequence[Level], left: float, right: float) -> None:
    """The words of the lines above the plot, each on a line of its own, so that near ones stay apart."""
    for line, level in enumerate(reversed(levels)):
        share = (level.at - left) / (right - left)
        side = "left" if share < 0.5 else "right"
        ax.annotate(
            level.word,
            (level.at, 1.0),
            (0, 4 + LINE * line),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha=side,
            color=colour("quiet"),
            fontsize=10.0,
        )


@chart
def tallies(
    rows: Sequence[tuple[str, tuple[int, int, int] | None, str]], *, name: str, finding: str, lines: int = 1
) -> Figure:
    """One bar a method: its shares of wins, ties and losses, from left to right.

    Args:
        rows: (label, wins, ties and losses, words at the row's end); no bar where there is None.
        lines: as in `dots`.
    """
    figure, ax = _by_row([label for label, *_ in rows], max((len(words) for *_, words in rows), default=0), lines)
    for index, (_, counts, words) in enumerate(rows):
        start, total = 0.0, sum(counts or ())
        for token, count in zip((WINS, TIES, LOSSES), counts or (), strict=False):
            if count:
                ax.barh(index, count / total, left=start, height=0.62, color=colour(token), linewidth=0)
                start += count / total
        _beside(ax, index, words, "ink" if total else "quiet")
    ax.axvline(0.5, color=colour("quiet"), linewidth=1.1)
    _words(ax, [Level(0.5, "half")], 0.0, 1.0)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    ax.set_xlabel("share of pairs")
    return figure


@chart
def panel(
    line: tuple[Sequence[float], Sequence[float], Sequence[float], Sequence[float]],
    behind: tuple[Sequence[float], Sequence[float]] | None,
    *,
    name: str,
    finding: str,
    xlabel: str,
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    steps: bool = False,
) -> Figure:
    """A small learning curve with its band, and the reference behind it.

    Args:
        line: x, mean, lowest, highest.
        behind: x and mean of the reference.
        steps: values hold until the next one.
    """
    figure = canvas(SMALL, 132)
    ax = axes(figure, 30, 6, 8, 34)
    x, mean, low, high = (_thinned(values) for values in line)
    if behind:
        drawn = [_thinned(values) for values in behind]
        ax.plot(*drawn, color=colour("quiet"), linewidth=1.2, drawstyle="steps-post" if steps else "default")
    ax.fill_between(x, low, high, color=colour("after"), alpha=0.25, linewidth=0, step="post" if steps else None)
    ax.plot(
        x,
        mean,
        color=colour("after"),
        drawstyle="steps-post" if steps else "default",
        marker="o" if len(x) == 1 else None,
    )
    first, last = xlim
    room = 0.03 * (last - first) or 0.5
    ax.set(xlim=(first - room, last + room), ylim=ylim, xlabel=xlabel)
    ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}".removeprefix("0") or "0"))
    ax.grid(axis="x", visible=False)
    ax.spines["left"].set_visible(False)
    return figure


def _beside(ax: Axes, index: int, words: str, token: str) -> None:
    """Words at the end of a row."""
    at, shift = (1.0, index), (9, 0)
    ax.annotate(
        words,
        at,
        shift,
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        color=colour(token),
        fontsize=10.5,
    )


def _by_row(labels: Sequence[str], beside: int, lines: int) -> tuple[Figure, Axes]:
    """A figure with a labelled row each and a thin rule through it, room for words to the right and above."""
    short = [shortened(label, LONGEST) for label in labels]
    left = 10 + LETTER * max((len(label) for label in short), default=0)
    top = 8 + LINE * lines
    figure = canvas(WIDTH, top + ROW * len(labels) + BOTTOM)
    ax = axes(figure, left, top, 12 + LETTER * beside, BOTTOM)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_yticks(range(len(labels)), short)
    ax.grid(axis="x", visible=False)
    ax.spines["left"].set_visible(False)
    return figure, ax


def _thinned(values: Sequence[float]) -> list[float]:
    """Few enough points for a small picture: every k-th and the last."""
    step = -(-len(values) // MOST_POINTS)
    return [*values[:-1:step], values[-1]] if step > 1 else list(values)


def _number(value: float, signed: bool) -> str:
    if abs(value) < 1e-12:
        return "0"
    return f"{value:{'+' if signed else ''}.4g}".replace("-", "−")
