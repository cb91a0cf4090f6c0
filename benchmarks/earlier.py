"""The studies of version 0.1, five seeds and fewer, from their committed tables, by the statistics of docs/studies.md.

A claim names a measure and two methods of one study. Its evidence is the paired difference of every federation: where
the institutions are drawn, a seed, with the mean over the strata it is in; the nine shipped institutions are one
federation whatever the seed, and are left out where there are others. Figures whose spread grows with their size are
compared as ratios. Nothing is adjusted for the number of claims: these studies were not designed, and suggest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.pages import table
from benchmarks.tables import Row, Runs
from medfl.study.endpoints import Endpoint, word
from medfl.study.inference import Estimate
from medfl.study.pool import Pool
from medfl.study.statistics import Mean, mean_over
from medfl.study.study_tables import number

STUDIES = ("tuning", "tuning-personal", "tuning-bandwidth", "verdict", "sparsity", "personal", "bandwidth")
SHIPPED = "shipped"
Repeat = tuple[str, ...]
Measure = Callable[[Runs, str], dict[Repeat, float | None]]


@dataclass(frozen=True)
class Claim:
    """`method` has a better `measure` than `other`; `endpoint` says which way is better, and on which scale."""

    text: str
    study: str
    method: str
    other: str
    measure: Measure
    name: str
    endpoint: Endpoint


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


HIGHER = Endpoint(figure="held_out_mean_auroc")
STEADIER = Endpoint(figure="oscillation", scale="log")
AUROC = ("held-out AUROC", figure("held_out_mean_auroc"), HIGHER)
STEADY = ("oscillation", figure("oscillation"), STEADIER)
DRIFT = ("drift", figure("drift"), STEADIER)
VARIANCE = ("accumulated variance", figure("accumulated_variance"), STEADIER)
AREA = ("validation AUROC, mean over rounds", area, HIGHER)
MIDDLE = ("inertia of the middle stages", figure("inertia_middle"), HIGHER)


def _claims(
    text: str, study: str, method: str, others: Sequence[str], *measures: tuple[str, Measure, Endpoint]
) -> list[Claim]:
    return [
        Claim(text, study, method, other, measure, name, endpoint)
        for other in others
        for name, measure, endpoint in measures
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
        (f"validation AUROC after {HORIZON:.0f} virtual s", at_time(HORIZON), HIGHER),
        AUROC,
    ),
    *_claims(
        "pFLAlign personalises better",
        "personal",
        "pflalign",
        ("finetune",),
        ("AUROC of the sites' own models", personal("auroc"), HIGHER),
        ("their balanced accuracy", personal("balanced_accuracy"), HIGHER),
        ("balanced accuracy of the worst of them", personal("balanced_accuracy", worst=True), HIGHER),
        STEADY,
    ),
]


def evidence(claim: Claim) -> tuple[list[float], list[str]]:
    """A number a federation, on the scale of the claim's endpoint, and the strata that it is a mean over."""
    runs = Runs.load(claim.study)
    method, other = claim.measure(runs, claim.method), claim.measure(runs, claim.other)
    moved = {key: claim.endpoint.moved(value, other.get(key)) for key, value in method.items()}
    own = {key: SHIPPED if key[0] == SHIPPED else key[1] for key in moved}
    pool = Pool.of_all(own, list(dict.fromkeys(key[0] for key in moved)))
    return list(pool.means(moved).values()), list(pool.strata)


def claims_table() -> str:
    """One line a claim and measure: the mean over federations, its 95 % interval, and what that is called."""
    rows = []
    for claim in CLAIMS:
        values, _ = evidence(claim)
        estimate, endpoint = Estimate.of(values), claim.endpoint
        if estimate is None:
            continue
        called, _ = word(endpoint, estimate, estimate.p_difference())
        form = ".3f" if endpoint.scale == "log" else "+.4f"
        low, high = (endpoint.shown(end) for end in estimate.interval())
        shown = f"{endpoint.shown(estimate.mean):{form}} [{low:{form}}, {high:{form}}]"
        kind = "ratio" if endpoint.scale == "log" else "difference"
        rows.append([claim.text, claim.other, claim.name, f"{kind} {shown}", str(estimate.n), f"**{called}**"])
    return table(["claim", "against", "measure", "mean [95 %]", "federations", ""], rows)


def means_table(study: str, column: str) -> str:
    """Mean and interval of one figure: methods down, partitions across."""
    runs = Runs.load(study)
    partitions = list(dict.fromkeys(row["partition"] for row in runs.runs))
    lines = []
    for method in dict.fromkeys(row["method"] for row in runs.runs):
        cells = []
        for name in partitions:
            rows = [row for row in runs.runs if row["method"] == method and row["partition"] == name]
            cells.append(_shown(mean_over(number(row, column) for row in rows)) if rows else "")
        lines.append([method, *cells])
    return table(["method", *partitions], lines)


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
    lines = []
    for method, values in tried.items():
        known = {rate: value for rate, value in values.items() if value is not None}
        shown = ", ".join(f"{rate:g}: {value:.3f}" for rate, value in sorted(known.items()))
        lines.append([method, shown, f"{max(known, key=lambda rate: known[rate]):g}"])
    return table(["method", "rate: validation figure", "chosen"], lines)


def _shown(mean: Mean) -> str:
    if mean.mean is None:
        return ""
    ends = [mean.mean, mean.low or 0.0, mean.high or 0.0]
    form = f".{3 if max(map(abs, ends)) >= 0.01 else 5}f"
    return f"{mean.mean:{form}}" + ("" if mean.low is None else f" [{mean.low:{form}}, {mean.high:{form}}]")
