"""The verdict on what the methods' papers claim: docs/results.md's tables from the committed tables of runs.

    uv run python -m benchmarks.claims            # rewrites the generated parts of docs/results.md; trains nothing

A claim names a measure, a direction and two methods of one study. Its evidence is the paired difference of every repeat
(partition, seed), their mean and its 95 % t-interval: the claim *holds* where the interval lies on the claimed side of
zero, *does not* where it lies on the other, and is *undecided* where it contains zero.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pages import rewritten
from medfl.study.statistics import Mean, difference, mean_over
from medfl.study.study_file import load_study
from medfl.study.study_tables import number

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
STUDIES = ("tuning", "tuning-personal", "tuning-bandwidth", "verdict", "sparsity", "personal", "bandwidth")
Row = Mapping[str, str]
Repeat = tuple[str, ...]


@dataclass(frozen=True)
class Runs:
    """The three tables of one study."""

    runs: Sequence[Row]
    sites: Sequence[Row]
    curves: Sequence[Row]

    @classmethod
    @functools.cache
    def load(cls, name: str) -> Runs:
        """Those of a study by its name; read once for all that is said of it."""

        def rows(table: str) -> list[Row]:
            path = RESULTS / name / f"{table}.csv"
            if not path.is_file():
                return []
            with path.open(newline="", encoding="utf-8") as stream:
                return list(csv.DictReader(stream))

        return cls(rows("runs"), rows("sites"), rows("curves"))


Measure = Callable[[Runs, str], dict[Repeat, float | None]]


@dataclass(frozen=True)
class Claim:
    """`method` has a higher (`sign` +1) or lower (-1) `measure` than `other`."""

    text: str
    study: str
    method: str
    other: str
    measure: Measure
    name: str
    sign: int


def figure(name: str) -> Measure:
    """A column of runs.csv."""

    def measured(runs: Runs, method: str) -> dict[Repeat, float | None]:
        return {repeat(row): number(row, name) for row in runs.runs if row["method"] == method}

    return measured


def area(runs: Runs, method: str) -> dict[Repeat, float | None]:
    """Mean over the rounds of the mean validation AUROC: the higher, the sooner and the further a method learns."""
    found: dict[Repeat, list[float]] = {}
    for row in runs.curves:
        value = number(row, "mean_auroc")
        if row["method"] == method and value is not None and int(row["round"]) > 0:
            found.setdefault(repeat(row), []).append(value)
    return {key: sum(values) / len(values) for key, values in found.items()}


def personal(column: str, worst: bool = False) -> Measure:
    """A figure of the models that sites keep for themselves: its mean over the training sites, or the lowest."""

    def measured(runs: Runs, method: str) -> dict[Repeat, float | None]:
        found: dict[Repeat, list[float]] = {}
        for row in runs.sites:
            value = number(row, column)
            if row["method"] == method and row["model"] == "personalised" and value is not None:
                found.setdefault(repeat(row), []).append(value)
        return {key: min(values) if worst else sum(values) / len(values) for key, values in found.items()}

    return measured


def at_time(seconds: float) -> Measure:
    """Mean validation AUROC of the last model that is there after so many virtual seconds."""

    def measured(runs: Runs, method: str) -> dict[Repeat, float | None]:
        found: dict[Repeat, float | None] = {}
        ended: dict[Repeat, float] = {}
        for row in runs.curves:
            # A record's clock is that of its round's end; its figures are of the model that entered the round.
            value, clock = number(row, "mean_auroc"), number(row, "virtual_seconds")
            if row["method"] != method or clock is None:
                continue
            if value is not None and ended.get(repeat(row), 0.0) <= seconds:
                found[repeat(row)] = value
            ended[repeat(row)] = clock
        return found

    return measured


def repeat(row: Row) -> Repeat:
    return (row["partition"], row["seed"])


def verdict(moved: Mean, sign: int) -> str:
    """holds | does not | undecided, and undecided without an interval."""
    if moved.low is None or moved.high is None:
        return "undecided"
    if moved.low <= 0 <= moved.high:
        return "undecided"
    return "holds" if (moved.low > 0) == (sign > 0) else "does not"


AUROC = ("held-out AUROC", figure("held_out_mean_auroc"), 1)
WORST = ("AUROC at the worst held-out site", figure("held_out_worst_auroc"), 1)
STEADY = ("oscillation", figure("oscillation"), -1)
DRIFT = ("drift", figure("drift"), -1)
VARIANCE = ("accumulated variance", figure("accumulated_variance"), -1)
AREA = ("validation AUROC, mean over rounds", area, 1)
MIDDLE = ("inertia of the middle stages", figure("inertia_middle"), 1)


def _claims(
    text: str, study: str, method: str, others: Sequence[str], *measures: tuple[str, Measure, int]
) -> list[Claim]:
    return [
        Claim(text, study, method, other, measure, name, sign) for other in others for name, measure, sign in measures
    ]


BASELINES = ("fedavg", "fedprox", "scaffold", "fednova")
HORIZON = 85.0
CLAIMS = [
    *_claims("ECGR is better than the baselines", "verdict", "ecgr", BASELINES, AUROC),
    *_claims("ECGR is steadier", "verdict", "ecgr", BASELINES, STEADY),
    *_claims("ECGR drifts less", "verdict", "ecgr", ("fedavg", "fedprox", "scaffold"), DRIFT, VARIANCE),
    *_claims("ECGR converges faster", "verdict", "ecgr", ("fedavg", "fedprox", "scaffold"), AREA),
    *_claims(
        "ECGR beats FedAvg at rate 0.003", "verdict", "ecgr", ("fedavg-0.003",), AUROC, STEADY, DRIFT, VARIANCE, AREA
    ),
    *_claims(
        "ECGR beats FedAvg at rate 0.01", "verdict", "ecgr-0.01", ("fedavg",), AUROC, STEADY, DRIFT, VARIANCE, AREA
    ),
    *_claims("ECGR improves what it joins", "verdict", "fedprox-ecgr", ("fedprox",), AUROC, STEADY),
    *_claims("ECGR improves what it joins", "verdict", "scaffold-ecgr", ("scaffold",), AUROC, STEADY),
    *_claims("ECGR improves what it joins", "verdict", "fednova-ecgr", ("fednova",), AUROC, STEADY),
    *_claims(
        "Careful selection beats a random half (both at 0.01)", "verdict", "ecgr-0.01", ("ecgr-random",), AUROC, STEADY
    ),
    *_claims(
        "Careful selection beats the shortest steps (both at 0.003)", "verdict", "ecgr", ("ecgr-norm",), AUROC, STEADY
    ),
    *_claims("LIPS lifts the inertia of the middle stages", "sparsity", "lips", ("fedavg", "fedavg-low"), MIDDLE),
    *_claims("LIPS is better", "sparsity", "lips", ("fedavg",), AUROC),
    *_claims(
        "FedGMR is ahead where lines are unequal",
        "bandwidth",
        "fedgmr",
        ("fixed-submodels", "fedasync", "fedavg"),
        (f"validation AUROC after {HORIZON:.0f} virtual s", at_time(HORIZON), 1),
        AUROC,
    ),
    *_claims(
        "pFLAlign personalises better",
        "personal",
        "pflalign",
        ("finetune",),
        ("AUROC of the sites' own models", personal("auroc"), 1),
        ("their balanced accuracy", personal("balanced_accuracy"), 1),
        ("balanced accuracy of the worst of them", personal("balanced_accuracy", worst=True), 1),
        STEADY,
    ),
]


def evidence(claim: Claim) -> dict[str, Mean]:
    """The mean paired difference in every partition, and over all repeats under the name "all"."""
    runs = Runs.load(claim.study)
    method, other = claim.measure(runs, claim.method), claim.measure(runs, claim.other)
    found = {}
    for name in dict.fromkeys(key[0] for key in method):
        mine = {key: value for key, value in method.items() if key[0] == name}
        found[name] = difference(mine, other)
    found["all"] = difference(method, other)
    return {name: mean for name, mean in found.items() if mean.n}


def claims_table() -> str:
    """One line a claim and measure: the difference over all repeats, the verdict, and the verdict in each partition."""
    lines = [
        "| claim | against | measure | difference, all repeats [95 %] | verdict | by partition |",
        "|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        found = evidence(claim)
        if not found:
            continue
        whole = found.pop("all")
        parts = ", ".join(f"{name} {_sign(moved, claim.sign)}" for name, moved in found.items())
        lines.append(
            f"| {claim.text} | {claim.other} | {claim.name} | {_shown(whole)}, n = {whole.n} "
            f"| **{verdict(whole, claim.sign)}** | {parts} |"
        )
    return "\n".join(lines)


def means_table(study: str, column: str) -> str:
    """Mean and interval of one figure: methods down, partitions across."""
    runs = Runs.load(study)
    partitions = list(dict.fromkeys(row["partition"] for row in runs.runs))
    lines = ["| method | " + " | ".join(partitions) + " |", "|---" + "|---" * len(partitions) + "|"]
    for method in dict.fromkeys(row["method"] for row in runs.runs):
        cells = []
        for name in partitions:
            rows = [row for row in runs.runs if row["method"] == method and row["partition"] == name]
            cells.append(_shown(mean_over(number(row, column) for row in rows), signed=False) if rows else "")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def progress() -> str:
    """Which studies are finished, from the runs that their files ask for, by what the files call them: tables may be
    of an earlier version of medfl, whose runs have other keys."""
    lines = ["| study | runs done | of |", "|---|--:|--:|"]
    columns = ("partition", "method", "seed", "fold")
    for name in STUDIES:
        planned = load_study(ROOT / "pipelines" / "studies" / f"{name}.yaml").runs
        done = {tuple(str(row[column]) for column in columns) for row in Runs.load(name).runs}
        known = sum((run.partition, run.method, str(run.seed), run.fold) in done for run in planned)
        lines.append(f"| `{name}` | {known} | {len(planned)} |")
    return "\n".join(lines)


def rates_table() -> str:
    """The learning rate of every method and what its validation AUROC was at the three values."""
    tried: dict[str, dict[float, float | None]] = {}
    for study, said, judged in (
        ("tuning", "{}", "val_mean_auroc"),
        ("tuning-bandwidth", "{} (unequal lines)", "val_mean_auroc"),
        ("tuning-personal", "{} (own models)", "val_personalised_balanced_accuracy"),
    ):
        for row in Runs.load(study).runs:
            method, _, rate = row["method"].rpartition("-")
            tried.setdefault(said.format(method), {})[float(rate)] = number(row, judged)
    lines = ["| method | rate: validation figure | chosen |", "|---|---|---|"]
    for method, values in tried.items():
        known = {rate: value for rate, value in values.items() if value is not None}
        shown = ", ".join(f"{rate:g}: {value:.3f}" for rate, value in sorted(known.items()))
        lines.append(f"| {method} | {shown} | {max(known, key=lambda rate: known[rate]):g} |")
    return "\n".join(lines)


def _sign(moved: Mean, sign: int) -> str:
    return {"holds": "+", "does not": "-", "undecided": "o"}[verdict(moved, sign)]


def _shown(mean: Mean, signed: bool = True) -> str:
    if mean.mean is None:
        return ""
    ends = [mean.mean, mean.low or 0.0, mean.high or 0.0]
    form = f"{'+' if signed else ''}.{3 if max(map(abs, ends)) >= 0.01 else 5}f"
    return f"{mean.mean:{form}}" + ("" if mean.low is None else f" [{mean.low:{form}}, {mean.high:{form}}]")


PARTS: Mapping[str, Callable[[], str]] = {
    "progress": progress,
    "claims": claims_table,
    "auroc": lambda: means_table("verdict", "held_out_mean_auroc"),
    "worst": lambda: means_table("verdict", "held_out_worst_auroc"),
    "ece": lambda: means_table("verdict", "held_out_mean_ece"),
    "oscillation": lambda: means_table("verdict", "oscillation"),
    "rates": rates_table,
}


def main() -> None:
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), PARTS), encoding="utf-8")
    print(f"Written: {PAGE}")


if __name__ == "__main__":
    main()
