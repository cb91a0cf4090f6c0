"""Learning curves of a study, over rounds and over virtual time: curves.csv, averaged over folds and seeds."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from medfl.study.csv_rows import Row
from medfl.study.study_tables import number

TIMES = 60
"""Points of a curve over virtual time."""
Point = tuple[float, float | None, float]
"""(round, moment, AUROC)."""


@dataclass(frozen=True)
class Course:
    """A method's validation AUROC on its way: mean, lowest and highest over seeds, at the points that every seed has.

    Attributes:
        x: rounds, or virtual seconds.
        seeds: which.
    """

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    seeds: Sequence[str]


@dataclass(frozen=True)
class Curves:
    """The rows of curves.csv."""

    rows: Sequence[Row]

    def by_round(self, partition: str, method: str, seeds: Sequence[str] = ()) -> Course | None:
        """Over rounds; of `seeds` alone, where they are named and all there."""
        curves = {
            seed: [{x: y for x, _, y in fold} for fold in folds]
            for seed, folds in self._of(partition, method, seeds).items()
        }
        rounds = sorted({x for folds in curves.values() for fold in folds for x in fold})
        return _course(rounds, curves, lambda fold, x: fold.get(x))

    def by_time(self, partition: str, method: str, seeds: Sequence[str] = ()) -> Course | None:
        """Over virtual time, up to the end of the shortest run: of the newest measured model at every moment."""
        curves = {
            seed: [{t: y for _, t, y in fold if t is not None} for fold in folds]
            for seed, folds in self._of(partition, method, seeds).items()
        }
        end = min((max(fold, default=0.0) for folds in curves.values() for fold in folds), default=0.0)
        return _course([end * i / TIMES for i in range(TIMES + 1)], curves, _newest) if end else None

    def _of(self, partition: str, method: str, seeds: Sequence[str]) -> Mapping[str, list[list[Point]]]:
        """Seed -> a curve a fold."""
        by_seed = self._points.get((partition, method), {})
        chosen = seeds or list(by_seed)
        return {seed: by_seed[seed] for seed in chosen} if set(chosen) <= set(by_seed) else {}

    @cached_property
    def _points(self) -> dict[tuple[str, str], dict[str, list[list[Point]]]]:
        """(partition, method) -> seed -> a curve a fold."""
        points: dict[tuple[str, str], dict[str, dict[str, list[Row]]]] = {}
        for row in self.rows:
            of_method = points.setdefault((row["partition"], row["method"]), {})
            of_method.setdefault(row["seed"], {}).setdefault(row["fold"], []).append(row)
        return {
            key: {seed: [_points(rows) for rows in folds.values()] for seed, folds in seeds.items()}
            for key, seeds in points.items()
        }


def _points(rows: Sequence[Row]) -> list[Point]:
    """The measured rounds. AUROC is of the model that entered the round: it was there when the round before ended."""
    points, clock = [], 0.0 if number(rows[0], "virtual_seconds") is not None else None
    for row in sorted(rows, key=lambda row: int(row["round"])):
        auroc = number(row, "mean_auroc")
        if auroc is not None:
            points.append((float(row["round"]), clock, auroc))
        clock = number(row, "virtual_seconds")
    return points


def _course(
    xs: Sequence[float],
    curves: Mapping[str, Sequence[dict[float, float]]],
    read: Callable[[dict[float, float], float], float | None],
) -> Course | None:
    """Means over folds, then mean and range over seeds, where every fold of every seed has a value."""
    points = []
    for moment in xs:
        values = [mean_of_all([read(fold, moment) for fold in folds]) for folds in curves.values()]
        present = [value for value in values if value is not None]
        if present and len(present) == len(values):
            points.append((moment, math.fsum(present) / len(present), min(present), max(present)))
    if not points:
        return None
    x, mean, low, high = ([point[i] for point in points] for i in range(4))
    return Course(x, mean, low, high, list(curves))


def _newest(curve: dict[float, float], moment: float) -> float | None:
    """The value of the last point up to a moment."""
    moments = list(curve)
    at = bisect.bisect_right(moments, moment)
    return curve[moments[at - 1]] if at else None


def mean_of_all(values: Iterable[float | None]) -> float | None:
    """None where any is unknown: a mean over fewer folds would be another figure."""
    ordered = list(values)
    return None if None in ordered or not ordered else math.fsum(v for v in ordered if v is not None) / len(ordered)
