"""How often a study's tests are wrong, how often its intervals hold the truth, and how many federations it takes.

    uv run python -m benchmarks.type_one_error [--repeats 3000] [--out docs/results/type_one_error.csv]

Every draw is the gains of n federations in the strata of `docs/results/verdict`: standard deviations from those
committed tables, correlations as seen there (.93 between the stain strengths of one seed, .6 between its two label
mixes, .3 between these and those). What is counted is the verdict of the package's own functions (`medfl.study`).

    tests      a share of false verdicts where the null hypothesis is just true; 5 % is promised
    intervals  a share that holds the truth; 95 % is promised, of those of the two one-sided tests 90 %
    power      a share of true verdicts: equivalence where there is no difference, or a difference of the stated size

Normal gains are what the promises are made for; "heavy" are t with 5 degrees of freedom and "skewed" centred gamma of
shape 4 (skewness 1), to see how far they hold beyond. "repeats pooled" is what was done before: every (partition, seed)
taken for independent. It takes about half a minute; docs/studies.md quotes it. The same call writes the same file.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.earlier import figure
from benchmarks.tables import ROOT, Runs
from medfl.study.endpoints import Endpoint, word
from medfl.study.inference import LEVEL, Estimate, holm, interaction
from medfl.study.statistics import mean_over

Array = NDArray[np.float64]
COMMITTED = ROOT / "docs" / "results" / "type_one_error.csv"
STRATA = ("dirichlet-0.1", "dirichlet-0.5", "stain-1", "stain-0.5", "stain-0")
POWERED = ("dirichlet-0.5", "stain-0.5", "shipped")
WITHIN_STAIN, WITHIN_MIX, BETWEEN = 0.93, 0.6, 0.3
FEDERATIONS = (5, 10, 20, 50, 100, 200)
SHAPES = ("normal", "heavy", "skewed")
PAIRS = (("ecgr", "fedavg"), ("ecgr-0.01", "fedavg"), ("ecgr", "fedavg-0.003"))
AUROC = Endpoint(figure="held_out_mean_auroc", test="equivalence", margin=0.005)
STEADY = Endpoint(figure="oscillation", scale="log")
RATIO = 0.8
"""Of oscillations, which a study should be able to see."""
POOLED = "repeats pooled"


@dataclass(frozen=True)
class Row:
    """One line of the table: how often (`rate`) what is counted happened in `repeats` studies."""

    part: str
    counted: str
    shape: str
    federations: int
    repeats: int
    rate: float


def deviations(endpoint: Endpoint, strata: Sequence[str], method: str, against: str) -> Array:
    """Standard deviation over seeds of what a method moved the figure by, in each stratum of the committed tables."""
    runs = Runs.load("verdict")
    one, other = (figure(endpoint.figure)(runs, name) for name in (method, against))
    moved = {repeat: endpoint.moved(value, other.get(repeat)) for repeat, value in one.items()}
    by_stratum = [[value for repeat, value in moved.items() if repeat[0] == name] for name in strata]
    return np.array([np.std([value for value in values if value is not None], ddof=1) for values in by_stratum])


def correlations(strata: Sequence[str]) -> Array:
    """Of the strata of one federation."""

    def between(one: str, other: str) -> float:
        kinds = {name.partition("-")[0] for name in (one, other)}
        if one == other:
            return 1.0
        return {"stain": WITHIN_STAIN, "dirichlet": WITHIN_MIX}.get(min(kinds), BETWEEN) if len(kinds) == 1 else BETWEEN

    return np.array([[between(one, other) for other in strata] for one in strata])


def gains(rng: np.random.Generator, shape: str, size: tuple[int, int], spread: Array, correlation: Array) -> Array:
    """Centred gains [repeats, federations, strata] of these standard deviations and correlations, of one of
    `SHAPES`; `size` is (repeats, federations)."""
    whole = (*size, len(spread))
    if shape == "heavy":
        noise = rng.standard_t(5, whole) / np.sqrt(5 / 3)
    elif shape == "skewed":
        noise = (rng.gamma(4, size=whole) - 4) / 2
    else:
        noise = rng.normal(size=whole)
    return np.asarray(noise @ np.linalg.cholesky(correlation).T * spread)


def estimates(values: Array) -> list[Estimate]:
    """`Estimate.of` of every row of values [repeats, n], all at once."""
    n = values.shape[1]
    found = values.mean(axis=1), values.std(axis=1, ddof=1) / n**0.5
    return [Estimate(n, float(mean), float(error)) for mean, error in zip(*found, strict=True)]


def shifted(estimate: Estimate, by: float) -> Estimate:
    """The estimate where the truth lies elsewhere by so much."""
    return Estimate(estimate.n, estimate.mean + by, estimate.error)


def verdicts(rows: Array, same: Estimate, second: Estimate, margin: float) -> dict[tuple[str, str], bool]:
    """What the package says of one study whose gains are `rows` [n, strata], of mean 0: `same` is their estimate,
    `second` that of a further endpoint."""
    endpoint = Endpoint(figure="held_out_mean_auroc", test="equivalence", margin=margin)
    at, below = shifted(same, margin), shifted(same, -margin)
    between = interaction(rows)
    told = [word(endpoint, its, its.p_equivalence(margin))[0] for its in (at, below)]
    counted = {
        ("tests", "difference"): same.p_difference() <= LEVEL,
        ("tests", "equivalence, at the margin"): told[0] == "equivalent",
        ("tests", "no worse, at the margin"): told[1] in ("no worse", "equivalent"),
        ("tests", "any of two endpoints (Holm)"): min(holm([at.p_equivalence(margin), second.p_difference()])) <= LEVEL,
        ("intervals", "95 % of the mean over strata"): _holds(same.interval(), 0.0),
        ("intervals", "90 % of the mean over strata"): _holds(same.interval(0.9), 0.0),
        ("intervals", "95 % of a difference in one stratum"): _of_one(rows[:, 0], (-1.0, 1.0), 0.0),
        ("intervals", "95 % of a method's AUROC"): _of_one(0.9 + rows[:, 2], (0.0, 1.0), 0.9),
    }
    return counted | ({("tests", "interaction"): between.p <= LEVEL} if between else {})


def _holds(interval: tuple[float, float], truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


def _of_one(values: Array, bounds: tuple[float, float], truth: float) -> bool:
    mean = mean_over(values.tolist(), bounds)
    return mean.low is not None and mean.high is not None and mean.low <= truth <= mean.high


def errors(
    repeats: int, seed: int, federations: Sequence[int] = FEDERATIONS, shapes: Sequence[str] = SHAPES
) -> Iterator[Row]:
    """The rows of `tests` and `intervals`.

    The margin is four standard errors, so that a test of equivalence has its full size at it: with a narrower one, a
    study too small for its margin, it errs less often.
    """
    correlation, strata = correlations(STRATA), len(STRATA)
    spread, steady = (deviations(endpoint, STRATA, *PAIRS[2]) for endpoint in (AUROC, STEADY))
    error = float(np.sqrt(spread @ correlation @ spread)) / strata
    for index, shape in enumerate(shapes):
        for n in federations:
            rng = np.random.default_rng([seed, index, n])
            rows, other = (gains(rng, shape, (repeats, n), each, correlation) for each in (spread, steady))
            whole = estimates(rows.reshape(repeats, -1))
            counts: dict[tuple[str, str], list[bool]] = {
                ("tests", f"difference, {POOLED}"): [its.p_difference() <= LEVEL for its in whole],
                ("intervals", f"95 %, {POOLED}"): [_holds(its.interval(), 0.0) for its in whole],
            }
            for study in zip(rows, estimates(rows.mean(axis=2)), estimates(other.mean(axis=2)), strict=True):
                for key, verdict in verdicts(*study, margin=4 * error / n**0.5).items():
                    counts.setdefault(key, []).append(verdict)
            for (part, counted), its in counts.items():
                yield Row(part, counted, shape, n, repeats, float(np.mean(its)))


def power(repeats: int, seed: int, spreads: Mapping[str, tuple[Array, Array]]) -> Iterator[Row]:
    """How often equivalence within .005 is shown where there is no difference, and a ratio of `RATIO` where it is one,
    with p adjusted as for two endpoints; `spreads` are the standard deviations of the two by what is compared."""
    for index, (name, pair) in enumerate(spreads.items()):
        strata = len(pair[0])
        correlation = np.full((strata, strata), BETWEEN) + (1 - BETWEEN) * np.eye(strata)
        for n in FEDERATIONS:
            rng = np.random.default_rng([seed, 100 + index, n])
            draws = [gains(rng, "normal", (repeats, n), each, correlation).mean(axis=2) for each in pair]
            said = []
            for same, steady in zip(*(estimates(draw) for draw in draws), strict=True):
                asked = ((AUROC, same), (STEADY, shifted(steady, math.log(RATIO))))
                adjusted = holm([endpoint.p(its) for endpoint, its in asked])
                said.append([word(*pair, p)[1] for pair, p in zip(asked, adjusted, strict=True)])
            for counted, rate in zip(("equivalent within 0.005", f"ratio {RATIO}"), np.mean(said, axis=0), strict=True):
                yield Row("power", f"{name}: {counted}", "normal", n, repeats, float(rate))


def committed_spreads() -> dict[str, tuple[Array, Array]]:
    """Those of the small network from random weights, by what is compared."""
    return {
        f"{method} against {against}": (
            deviations(AUROC, POWERED, method, against),
            deviations(STEADY, POWERED, method, against),
        )
        for method, against in PAIRS
    }


def write(rows: Sequence[Row], path: Path) -> None:
    """The table, rates with four digits."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) | {"rate": f"{row.rate:.4f}"} for row in rows)


def read(path: Path) -> list[Row]:
    """The rows of a table."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            Row(
                row["part"],
                row["counted"],
                row["shape"],
                int(row["federations"]),
                int(row["repeats"]),
                float(row["rate"]),
            )
            for row in csv.DictReader(stream)
        ]


def table(rows: Sequence[Row], part: str, shape: str = "normal") -> str:
    """Rates in Markdown: what is counted down, federations across."""
    chosen = [row for row in rows if (row.part, row.shape) == (part, shape)]
    sizes = sorted({row.federations for row in chosen})
    rates = {(row.counted, row.federations): f"{row.rate:.3f}" for row in chosen}
    lines = ["| federations | " + " | ".join(map(str, sizes)) + " |", "|---" + "|--:" * len(sizes) + "|"]
    for counted in dict.fromkeys(row.counted for row in chosen):
        lines.append(f"| {counted} | " + " | ".join(rates.get((counted, n), "-") for n in sizes) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=COMMITTED)
    given = parser.parse_args()
    rows = [*errors(given.repeats, given.seed), *power(given.repeats, given.seed, committed_spreads())]
    write(rows, given.out)
    for part in ("tests", "intervals", "power"):
        print(f"{part}\n{table(rows, part)}\n")


if __name__ == "__main__":
    main()
