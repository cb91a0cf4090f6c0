"""How often `medfl monitor` raises an alarm where nothing has changed, and where something has.

    uv run python -m benchmarks.monitoring [--repeats 1500] [--power 300] [--out docs/results/monitoring.csv]

Every draw is a month: source groups of five classes, the rarest 5 % of patients, 13 figures, those of a model whose
scores lie near 0 and 1 and six log-normal ones of stain. Sites differ by a normal draw of the stain each, half as wide
as source groups differ within a site. What is counted is any alarm of the package's own rule (`medfl.pipeline.
monitor_sites.drift`) at a site, and of all together. With a change the six figures of stain are moved by so many
standard deviations of source groups, at every site, or at one. It takes minutes; docs/monitoring.md quotes it. The same
call writes the same file.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.pages import rewritten, table
from benchmarks.tables import ROOT
from medfl.metrics.drift import Moments
from medfl.metrics.monitored import TOGETHER, figure_names
from medfl.metrics.prevalence import PredictedCounts
from medfl.pipeline.monitor_reference import MonitorReference
from medfl.pipeline.monitor_sites import FederationComparison, drift
from medfl.pipeline.monitor_sums import MonitorSums

COMMITTED = ROOT / "docs" / "results" / "monitoring.csv"
PAGE = ROOT / "docs" / "monitoring.md"
CLASSES = ("a", "b", "c", "d", "e")
SHARES = (0.05, 0.15, 0.2, 0.25, 0.35)
SPREAD, SD = 0.25, 0.29  # of the logarithm of a stain figure, and of the figure, its part by class included
BETWEEN = SD / 2
OWN, OTHERS = "its own patches", "other sites"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """What is drawn: sites at which the new months are, each with so many new source groups; what they are compared
    with, of so many source groups a site; by how much the stain has moved, and at how many of the sites."""

    sites: int
    groups: int
    compared: str
    reference_sites: int
    before: int
    moved: float = 0.0
    moved_sites: int = 0


SINGLE = tuple(Setting(1, n, OWN, 1, m) for n, m in ((5, 30), (8, 60), (20, 50), (50, 50), (200, 50)))
QUIET = (
    Setting(1, 40, OTHERS, 6, 50),
    Setting(4, 10, OWN, 4, 50),
    Setting(4, 40, OWN, 4, 50),
    Setting(8, 40, OWN, 8, 50),
    Setting(4, 40, OTHERS, 6, 50),
    Setting(4, 10, OTHERS, 4, 50),
)
DRIFT = tuple(Setting(4, 40, OWN, 4, 50, moved, sites) for sites in (4, 1) for moved in (0.25, 0.5, 0.75, 1.0)) + tuple(
    Setting(4, 40, OTHERS, 6, 50, moved, 4) for moved in (0.5, 1.0, 2.0)
)


@dataclass(frozen=True, kw_only=True)
class Row(Setting):
    """A setting and how often, of `repeats` draws, there was an alarm: at any site, of all together, either."""

    repeats: int
    at_a_site: float
    together: float
    either: float


def month(rng: np.random.Generator, groups: int, stain: float) -> MonitorSums:
    """What a site would send of so many source groups whose stain lies `stain` above the usual."""
    label = rng.choice(len(CLASSES), groups, p=SHARES)
    p = np.full((groups, len(CLASSES)), 0.015)
    p[np.arange(groups), label] = 0.94
    p = np.abs(p + rng.normal(0, 0.01, p.shape))
    gap = (rng.random(groups) < 0.9) - p.max(axis=1)
    tissue = rng.lognormal(0, SPREAD, (groups, 6)) + 0.1 * label[:, None] + stain
    figures = np.column_stack([p.max(axis=1), p, gap, tissue])
    moments = {name: Moments.of(column) for name, column in zip(figure_names(CLASSES), figures.T, strict=True)}
    return MonitorSums(groups, 0, moments, PredictedCounts.of(label, np.arange(groups), len(CLASSES)), None)


def measured(setting: Setting, repeats: int, seed: int) -> Row:
    """Alarms in so many draws of a setting."""
    rng = np.random.default_rng(
        [seed, setting.sites, setting.groups, setting.reference_sites, setting.before, int(100 * setting.moved)]
    )
    alone = whole = either = 0
    for _ in range(repeats):
        sums, reference = draw(setting, rng)
        shifts = drift(sums, reference, FederationComparison.of(sums, reference))
        places = {place for place, own in shifts.items() if any(one.alarm for one in own.values())}
        alone += bool(places - {TOGETHER})
        whole += TOGETHER in places
        either += bool(places)
    return Row(
        **asdict(setting), repeats=repeats, at_a_site=alone / repeats, together=whole / repeats, either=either / repeats
    )


def draw(setting: Setting, rng: np.random.Generator) -> tuple[Mapping[str, MonitorSums], MonitorReference]:
    """New months and what they are compared with."""
    levels = rng.normal(0, BETWEEN, setting.reference_sites)
    before = {f"r{k}": month(rng, setting.before, level).moments for k, level in enumerate(levels)}
    own = setting.compared == OWN
    now = levels if own else rng.normal(0, BETWEEN, setting.sites)
    sums = {
        f"{'r' if own else 'n'}{k}": month(rng, setting.groups, level + SD * setting.moved * (k < setting.moved_sites))
        for k, level in enumerate(now)
    }
    return sums, MonitorReference("before", before, np.eye(len(CLASSES)), np.ones(len(CLASSES)))


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    if not path.is_file():
        return []
    kinds = {f.name: {"int": int, "float": float, "str": str}[str(f.type)] for f in fields(Row)}
    with path.open(newline="", encoding="utf-8") as stream:
        return [Row(**{key: kinds[key](cell) for key, cell in line.items()}) for line in csv.DictReader(stream)]


def single_table(rows: Sequence[Row]) -> str:
    """One site against its own patches, nothing changed."""
    kept = [row for row in rows if row.sites == 1 and row.compared == OWN]
    return table(
        ["new source groups", "of the reference", "alarms"],
        [[str(row.groups), str(row.before), f"{row.either:.1%}"] for row in kept],
    )


def several_table(rows: Sequence[Row], moved: bool) -> str:
    """Several sites, or one beside others; without a change, or with."""
    kept = [row for row in rows if bool(row.moved) == moved and not (row.sites == 1 and row.compared == OWN)]
    head = ["new sites x source groups", "compared with", "source groups each"]
    change = ["stain moved by", "at sites"] if moved else []
    body = [
        [
            f"{row.sites} x {row.groups}",
            "their own patches" if row.compared == OWN and row.sites > 1 else f"{row.reference_sites} {OTHERS}",
            str(row.before),
            *([f"{row.moved:g} SD", f"{row.moved_sites} of {row.sites}"] if moved else []),
            f"{row.at_a_site:.1%}",
            f"{row.together:.1%}" if row.sites > 1 else "",
            f"{row.either:.1%}",
        ]
        for row in kept
    ]
    return table([*head, *change, "alarm at a site", "of all together", "either"], body)


def parts(rows: Sequence[Row]) -> dict[str, str]:
    """Generated parts of docs/monitoring.md."""
    return {
        "alarms-single": single_table(rows),
        "alarms-several": several_table(rows, moved=False),
        "alarms-power": several_table(rows, moved=True),
    }


def write_page(rows: Sequence[Row]) -> None:
    """Put the tables into docs/monitoring.md."""
    made = {name: (lambda text=text: text) for name, text in parts(rows).items()}
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitoring")
    parser.add_argument("--repeats", type=int, default=1500, help="draws of a setting without a change")
    parser.add_argument("--power", type=int, default=300, help="draws of a setting with one")
    parser.add_argument("--out", type=Path, default=COMMITTED)
    asked = parser.parse_args()
    rows = []
    for setting in (*SINGLE, *QUIET, *DRIFT):
        rows.append(measured(setting, asked.power if setting.moved else asked.repeats, seed=20))
        print(rows[-1], flush=True)
    with asked.out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    if asked.out == COMMITTED:
        write_page(rows)


if __name__ == "__main__":
    main()
