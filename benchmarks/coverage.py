"""How often medfl's 95 % intervals hold the truth, by simulation.

    uv run python -m benchmarks.coverage [--repeats 2000] [--out docs/results/coverage.csv]

writes one row per setting, figure and method, and a picture beside it; docs/metrics.md quotes them. It takes about
ten minutes of one core.

Every data set consists of source groups of patches of one class; a score is the class's mean plus an effect of the
group plus one of the patch, both normal, with half of the variance each: the correlation within a group is 0.5.

AUROC:       two classes, unit variance, means 0 and sqrt(2) z(AUROC), groups of 6 to 8 patches.
of sites:    the mean AUROC of one, two or five such sites, each with its own groups.
mean AUROC:  five classes; the score of class c has mean m for patches of c and 0 for others, and the mean over the five
             scores of a patch is taken off, which makes them dependent as softmax probabilities are.
calibration: five classes, scores x with mean m for the class. Given the patch alone, softmax(m x) is the true
             probability of each class, and softmax(a m x) a model that is calibrated for a = 1 and overconfident above.
operating:   two classes as for AUROC; the threshold has a known sensitivity and specificity.

Everything is drawn from `--seed`: the same call writes the same file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.coverage_results import OURS, TABLES, Row, draw, read, table, write
from medfl.metrics.auroc import compare
from medfl.metrics.calibration import ScoreSums, group_sums, score_sums
from medfl.metrics.delong import clustered_delong
from medfl.metrics.group_figures import mean_interval
from medfl.metrics.group_support import group_support
from medfl.metrics.intervals import (
    LeastError,
    least_error_of_mean,
    least_errors,
    multiplicities,
    site_intervals,
)
from medfl.metrics.operating import operating_point
from medfl.metrics.t_intervals import Interval, logit_interval, share_interval, t_quantile

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
CORRELATION = 0.5
CLASSES = 5
MODELS = {  # m and a
    "calibrated": (2.0, 1.0),
    "nearly calibrated": (2.0, 1.1),
    "overconfident": (2.0, 2.5),
    "overconfident, 1 % errors": (4.0, 2.5),
}
FIGURES = ("ece", "classwise_ece", "brier", "nll", "balanced_accuracy")
NORMAL = NormalDist()


class Tally:
    """Intervals by figure and method, against the truth of the figure."""

    def __init__(self, setting: str, groups: int, truth: dict[str, float]) -> None:
        self.setting, self.groups, self.truth = setting, groups, truth
        self.intervals: dict[tuple[str, str], list[Interval]] = {}

    def add(self, figure: str, method: str, interval: Iterable[float] | None) -> None:
        """Count one interval; none at all is one that holds nothing."""
        low, high = (np.nan, np.nan) if interval is None else interval
        self.intervals.setdefault((figure, method), []).append((float(low), float(high)))

    def rows(self) -> Iterator[Row]:
        for (figure, method), intervals in self.intervals.items():
            low, high = np.array(intervals).T
            truth = self.truth[figure]
            held = (low <= truth) & (truth <= high)
            covered, below, above = (float(np.mean(share)) for share in (held, truth < low, truth > high))
            width = float(np.nanmean(high - low))
            yield Row(figure, self.setting, self.groups, truth, method, len(low), covered, below, above, width)


# --------------------------------------------------------------------------------------------------------- the data


def noise(rng: np.random.Generator, sizes: Labels, columns: int) -> Array:
    """Group effect plus patch effect, variance 1 in all, [sum of sizes, columns]."""
    of_group = np.repeat(rng.normal(size=(len(sizes), columns)), sizes, axis=0)
    of_patch = rng.normal(size=(int(sizes.sum()), columns))
    return np.asarray(CORRELATION**0.5 * of_group + (1 - CORRELATION) ** 0.5 * of_patch)


def two_classes(rng: np.random.Generator, groups: int, auroc: float) -> tuple[Array, Labels, Labels]:
    """Scores [N], labels, group of each patch; `groups` of either class."""
    sizes = rng.integers(6, 9, 2 * groups)
    group = np.repeat(np.arange(2 * groups), sizes)
    labels = (group < groups).astype(np.int64)
    return noise(rng, sizes, 1)[:, 0] + 2**0.5 * NORMAL.inv_cdf(auroc) * labels, labels, group


def five_classes(rng: np.random.Generator, groups: int, auroc: float) -> tuple[Array, Labels, Labels]:
    """Scores [N, 5], labels, groups; `groups` of every class, each class's AUROC as stated."""
    sizes = rng.integers(6, 9, CLASSES * groups)
    group = np.repeat(np.arange(CLASSES * groups), sizes)
    labels = group % CLASSES
    left = 1 - 1 / CLASSES  # variance of a score after its patch's mean is taken off
    scores = noise(rng, sizes, CLASSES) + np.eye(CLASSES)[labels] * (2 * left) ** 0.5 * NORMAL.inv_cdf(auroc)
    return scores - scores.mean(axis=1, keepdims=True), labels, group


def classifier(rng: np.random.Generator, groups: int, size: int, model: str) -> tuple[Array, Labels, Labels]:
    """Probabilities [N, 5] of one of MODELS, labels, groups; `groups` in all, of classes drawn evenly."""
    separation, scale = MODELS[model]
    sizes = np.full(groups, size)
    group = np.repeat(np.arange(groups), sizes)
    labels = rng.integers(0, CLASSES, groups)[group]
    logits = scale * separation * (noise(rng, sizes, CLASSES) + separation * np.eye(CLASSES)[labels])
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True), labels, group


def true_figures(model: str, patches: int = 2_000_000) -> dict[str, float]:
    """The model's figures over a population: of so many patches, each a group of its own."""
    rng = np.random.default_rng(0)
    parts = [score_sums(*classifier(rng, 100_000, 1, model)[:2]) for _ in range(max(1, patches // 100_000))]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    truth = {name: float(getattr(total, name)()) for name in FIGURES}
    return truth | ({"ece": 0.0, "classwise_ece": 0.0} if model == "calibrated" else {})


# --------------------------------------------------------------------------------------------------------- the settings


def auroc_rows(groups: int, auroc: float, repeats: int, resamples: int, seed: int) -> Iterator[Row]:
    """AUROC of two classes by every method that was considered, with the groups and without."""
    rng = np.random.default_rng([seed, 1, groups, round(1000 * auroc)])
    tally = Tally(f"AUROC {auroc:.2f}", groups, {"auroc": auroc})
    for _ in range(repeats):
        score, labels, group = two_classes(rng, groups, auroc)
        for unit, name in ((group, "groups"), (np.arange(len(group)), "patches")):
            for method, interval in auroc_intervals(rng, score, labels, unit, resamples).items():
                if method != "share t":
                    tally.add("auroc", f"{name}: {method}", interval)
                elif name == "groups":
                    tally.add("auroc", OURS, interval)
    yield from tally.rows()


def auroc_intervals(
    rng: np.random.Generator, score: Array, labels: Labels, unit: Labels, resamples: int
) -> dict[str, Interval | None]:
    """The candidates, each with `unit` as what was sampled independently."""
    units = int(unit.max()) + 1
    variance = clustered_delong(np.stack([-score, score], axis=1), labels, unit, units)
    comparison = compare(score, labels == 1, unit)
    point = float(comparison.auroc(np.ones((units, 1)))[0])
    se, df = float(variance.per_class[1]) ** 0.5, float(variance.df_per_class[1])
    z = NORMAL.inv_cdf(0.975)
    t = t_quantile(df) if se else z
    least = least_errors(group_support(labels, unit, units, 2))[1]
    assert least is not None
    found: dict[str, Interval | None] = {
        "share t": share_interval(point, se, df, least.bound),
        "logit t": logit_interval(point, se, df, least.bound),
        "logit z": logit_interval(point, se, np.inf, least.bound),
        "plain t": (point - t * se, point + t * se),
        "plain z": (point - z * se, point + z * se),
    }
    if resamples:
        values = comparison.auroc(np.ascontiguousarray(multiplicities(rng, units, resamples).T))
        low, high = np.nanquantile(values, [0.025, 0.975])
        found["bootstrap"] = (float(low), float(high))
    return found


def mean_auroc_rows(groups: int, auroc: float, repeats: int, seed: int) -> Iterator[Row]:
    """The mean AUROC of five classes, with the groups and without."""
    rng = np.random.default_rng([seed, 2, groups, round(1000 * auroc)])
    tally = Tally(f"AUROC {auroc:.2f}", groups, {"mean auroc": auroc})
    for _ in range(repeats):
        scores, labels, group = five_classes(rng, groups, auroc)
        point = float(np.mean([compare(scores[:, c], labels == c, group * 0).auroc(np.ones((1, 1))) for c in range(5)]))
        for unit, method in ((group, OURS), (np.arange(len(group)), "patches: logit t")):
            variance = clustered_delong(scores, labels, unit, int(unit.max()) + 1)
            least = least_error_of_mean(least_errors(group_support(labels, unit, int(unit.max()) + 1, CLASSES)))
            assert least is not None
            tally.add("mean auroc", method, share_interval(point, variance.mean**0.5, variance.df_mean, least.bound))
    yield from tally.rows()


def mean_over_sites_rows(groups: int, auroc: float, repeats: int, seed: int) -> Iterator[Row]:
    """The mean AUROC of several sites, against 1.96 standard errors either way, which a perfect site leaves without."""
    rng = np.random.default_rng([seed, 5, groups, round(1000 * auroc)])
    names = {1: "1 site", 2: "2 sites", 5: "5 sites"}
    truth = {"mean of sites": auroc}
    tallies = {sites: Tally(f"AUROC {auroc:.2f}, {name}", groups, truth) for sites, name in names.items()}
    for _ in range(repeats):
        entries = [site_entry(*two_classes(rng, groups, auroc)) for _ in range(5)]
        for sites, tally in tallies.items():
            tally.add("mean of sites", OURS, mean_interval(entries[:sites]))
            tally.add("mean of sites", "plain z", plain_interval(entries[:sites]))
    for tally in tallies.values():
        yield from tally.rows()


def site_entry(score: Array, labels: Labels, group: Labels) -> dict[str, Any]:
    """What `measure` says of the AUROC of class 1 at a site."""
    groups = int(group.max()) + 1
    variance = clustered_delong(np.stack([-score, score], axis=1), labels, group, groups)
    least: LeastError | None = least_errors(group_support(labels, group, groups, 2))[1]
    assert least is not None
    varies = float(variance.per_class[1]) > 0
    return {
        "auroc": float(compare(score, labels == 1, group).auroc(np.ones((groups, 1)))[0]),
        "auroc_se": float(variance.per_class[1]) ** 0.5 if varies else None,
        "auroc_df": float(variance.df_per_class[1]) if varies else None,
        "auroc_least": asdict(least),
    }


def plain_interval(entries: Sequence[dict[str, Any]]) -> Interval | None:
    """mean +- 1.96 se; None where a site has no standard error."""
    errors = [entry["auroc_se"] for entry in entries]
    if None in errors:
        return None
    mean = float(np.mean([entry["auroc"] for entry in entries]))
    half = NORMAL.inv_cdf(0.975) * float(np.linalg.norm(errors)) / len(errors)
    return max(0.0, mean - half), min(1.0, mean + half)


def calibration_rows(
    groups: int, size: int, model: str, truth: dict[str, float], repeats: int, resamples: int, seed: int
) -> Iterator[Row]:
    """Calibration error, losses and balanced accuracy of one model, against two simpler bootstrap intervals."""
    rng = np.random.default_rng([seed, 3, groups, size, *map(ord, model)])
    tally = Tally(model if size > 1 else f"{model}, groups of {size}", groups, truth)
    for _ in range(repeats):
        probs, labels, group = classifier(rng, groups, size, model)
        ours = site_intervals(probs, labels, group, groups, resamples=resamples, seed=int(rng.integers(2**32)))
        sums = group_sums(probs, labels, group, groups)
        drawn = sums.resample(multiplicities(rng, groups, resamples))
        for figure in FIGURES:
            tally.add(figure, OURS, getattr(ours, figure))
            value = getattr(ScoreSums, figure)
            low, high = np.quantile(value(drawn), [0.025, 0.975])
            tally.add(figure, "percentiles", (low, high))
            if figure in ("ece", "classwise_ece"):
                point = float(value(sums.total()))
                tally.add(figure, "mirrored", (max(0.0, 2 * point - high), 2 * point - low))
    yield from tally.rows()


def operating_rows(groups: int, sensitivity: float, repeats: int, resamples: int, seed: int) -> Iterator[Row]:
    """Sensitivity and specificity at a threshold of known sensitivity, with the groups and without."""
    rng = np.random.default_rng([seed, 4, groups, round(1000 * sensitivity)])
    mean = 2**0.5 * NORMAL.inv_cdf(0.95)
    threshold = mean - NORMAL.inv_cdf(sensitivity)
    truth = {"sensitivity": sensitivity, "specificity": NORMAL.cdf(threshold)}
    tally = Tally(f"sensitivity {sensitivity:.2f}", groups, truth)
    for _ in range(repeats):
        score, labels, group = two_classes(rng, groups, 0.95)
        for unit, method in ((group, OURS), (np.arange(len(group)), "patches")):
            seed_ = int(rng.integers(2**32))
            units = int(unit.max()) + 1
            found = operating_point(score, labels == 1, unit, units, threshold, resamples=resamples, seed=seed_)
            for figure in truth:
                tally.add(figure, method, found[f"{figure}_ci"])
    yield from tally.rows()


def simulate(repeats: int, resamples: int, seed: int) -> Iterator[Row]:
    """All settings, one after the other."""
    for auroc in (0.80, 0.95):
        for groups in (5, 15, 40, 100):
            yield from auroc_rows(groups, auroc, repeats, resamples, seed)
    for auroc in (0.80, 0.95, 0.99):
        for groups in (2, 3, 5, 7, 10, 15):
            yield from mean_over_sites_rows(groups, auroc, repeats, seed)
    for auroc in (0.80, 0.95):
        for groups in (5, 15, 40, 100):
            yield from mean_auroc_rows(groups, auroc, repeats, seed)
    for model in MODELS:
        truth = true_figures(model)
        for groups, size in ((15, 8), (40, 8), (150, 8), (100, 1)):
            yield from calibration_rows(groups, size, model, truth, repeats, resamples, seed)
    for sensitivity in (0.80, 0.95):
        for groups in (15, 40, 100):
            yield from operating_rows(groups, sensitivity, repeats, resamples, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description="How often medfl's 95 %% intervals hold the truth.")
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=400, help="bootstrap resamples behind every interval")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/coverage.csv"))
    arguments = parser.parse_args()
    rows = []
    for row in simulate(arguments.repeats, arguments.resamples, arguments.seed):
        rows.append(row)
        place = f"{row.figure:18s} {row.setting:38s} {row.groups:4d} groups  {row.method:20s}"
        print(f"{place} {100 * row.coverage:5.1f} %  width {row.width:.3f}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write(rows, arguments.out)
    draw(rows, arguments.out.with_suffix(".svg"))
    for columns in TABLES:
        print("\n" + table(read(arguments.out), columns))


if __name__ == "__main__":
    main()
