"""The rows of the coverage simulation: as CSV, as the tables of docs/metrics.md, and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

OURS = "medfl"
"""The method that `medfl.metrics` uses."""


@dataclass(frozen=True)
class Row:
    """What one method did in one setting: shares of the repeats, and the mean width of its intervals."""

    figure: str
    setting: str
    groups: int
    truth: float
    method: str
    repeats: int
    coverage: float
    truth_below: float
    truth_above: float
    width: float


def read(path: Path) -> list[Row]:
    """The rows of a file that `write` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        kinds = {"groups": int, "repeats": int, "figure": str, "setting": str, "method": str}
        names = [field.name for field in fields(Row)]
        return [Row(**{name: kinds.get(name, float)(line[name]) for name in names}) for line in csv.DictReader(file)]


def write(rows: Iterable[Row], path: Path) -> None:
    """CSV; numbers to five significant digits."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        for row in rows:
            writer.writerow(f"{v:.5g}" if isinstance(v, float) else v for v in asdict(row).values())


TABLES: tuple[dict[tuple[str, str], str], ...] = (
    {
        ("auroc", OURS): "AUROC",
        ("mean auroc", OURS): "mean of five",
        ("auroc", "groups: logit t"): "at any width",
        ("auroc", "groups: plain z"): "plain DeLong",
        ("auroc", "groups: bootstrap"): "percentiles",
        ("auroc", "patches: logit t"): "AUROC without groups",
        ("auroc", "patches: bootstrap"): "percentiles without groups",
    },
    {
        ("mean of sites", OURS): "mean of the sites",
        ("mean of sites", "plain z"): "1.96 se either way",
    },
    {
        ("ece", OURS): "ECE",
        ("ece", "percentiles"): "percentiles",
        ("ece", "mirrored"): "mirrored",
        ("classwise_ece", OURS): "classwise ECE",
        ("classwise_ece", "percentiles"): "percentiles",
        ("classwise_ece", "mirrored"): "mirrored",
    },
    {
        ("brier", OURS): "Brier",
        ("brier", "percentiles"): "percentiles",
        ("nll", OURS): "NLL",
        ("nll", "percentiles"): "percentiles",
        ("balanced_accuracy", OURS): "balanced accuracy",
        ("balanced_accuracy", "percentiles"): "percentiles",
    },
    {
        ("sensitivity", OURS): "sensitivity",
        ("sensitivity", "patches"): "without groups",
        ("specificity", OURS): "specificity",
        ("specificity", "patches"): "without groups",
    },
)
"""The tables of docs/metrics.md: (figure, method) -> heading."""


def table(rows: Iterable[Row], columns: dict[tuple[str, str], str]) -> str:
    """Coverage in % as a Markdown table, a line for every setting and number of groups."""
    found = {(row.setting, row.groups, row.figure, row.method): row.coverage for row in rows}
    figures = {figure for figure, _ in columns}
    lines = ["| | groups | " + " | ".join(columns.values()) + " |", "|" + "---|" * (len(columns) + 2)]
    for setting, groups in dict.fromkeys(key[:2] for key in found if key[2] in figures):
        cells = [f"{100 * found[setting, groups, *column]:.1f}" for column in columns]
        lines.append(f"| {setting} | {groups} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: Iterable[Row], path: Path) -> None:
    """Coverage of AUROC against the number of groups: one panel per AUROC, one line per method."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "medfl"
    lines = {
        OURS: ("logit DeLong over groups (medfl)", "#1b6ca8", "-"),
        "groups: plain z": ("plain DeLong over groups", "#7a7a7a", "--"),
        "groups: bootstrap": ("percentile bootstrap over groups", "#7a7a7a", ":"),
        "patches: logit t": ("logit DeLong over patches", "#c1443c", "-"),
        "patches: bootstrap": ("percentile bootstrap over patches", "#c1443c", ":"),
    }
    rows = [row for row in rows if row.figure == "auroc"]
    settings = list(dict.fromkeys(row.setting for row in rows))
    figure, axes = plt.subplots(1, len(settings), figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, setting in zip(axes, settings, strict=True):
        axis.axhspan(93, 97, color="#1b6ca8", alpha=0.12, lw=0)
        for method, (label, colour, style) in lines.items():
            points = [
                (row.groups, 100 * row.coverage) for row in rows if (row.setting, row.method) == (setting, method)
            ]
            axis.plot(*zip(*points, strict=True), style, color=colour, marker="o", ms=4, label=label)
        axis.set_xscale("log")
        ticks = sorted({row.groups for row in rows})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set_title(setting)
        axis.set_xlabel("source groups per class")
    axes[0].set_ylabel("intervals that hold the truth, %")
    axes[0].set_ylim(50, 100)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
