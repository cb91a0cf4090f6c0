"""What differential privacy costs where only a linear head trains: whole sites against single patients.

    MEDFL_LC25000=DIR uv run python -m benchmarks.privacy_head    # goes on where docs/results/privacy/head.csv ends

The data and the network of `pipelines/lc25000_small.yaml` (six training and three held-out sites, ImageNet features of
a frozen network, dealt once) without privacy, with `dp` and with `training.dp_sgd`, at an epsilon of 1, 3 and 8. The
model of the last round is measured. Seeds are those of batches and noise. `python -m benchmarks.privacy` writes the
table into docs/privacy.md.
"""

from __future__ import annotations

import csv
import dataclasses
import time
from statistics import mean

from benchmarks.attacks import measured
from benchmarks.pages import table
from benchmarks.tables import ROOT
from medfl.federation.rounds import Federation
from medfl.federation.server_state import ServerState
from medfl.federation.transport import InProcess
from medfl.methods.core.chain import build_chain
from medfl.methods.differential_privacy import private_link
from medfl.pipeline.build_federation import federation_config
from medfl.pipeline.build_site import build_sites
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import LocalRunSetup, prepare
from medfl.runs.patient_ledger import patient_epsilon
from medfl.runs.privacy_ledger import epsilon
from medfl.site.shared_model import SharedModel

RUNS = ROOT / "docs" / "results" / "privacy" / "head.csv"
PIPELINE = ROOT / "pipelines" / "lc25000_small.yaml"
DELTA = 1e-5
SEEDS = (1, 2)
COLUMNS = ("privacy", "rounds", "clip", "budget", "seed", "epsilon", "held_out_auroc", "worst_held_out_auroc")
FIXED = ("tracking.enabled=false", "training.device=cpu", "training.threads=1", "training.evaluate_every=1000")
WORDS = {"none": "nobody", "site": "whole sites, `dp`", "patient": "patients, `training.dp_sgd`"}
Setting = tuple[str, int, float, float]
"""Whose privacy, rounds, clip, epsilon."""
SETTINGS: tuple[Setting, ...] = (
    *(("patient", 20, 0.5, budget) for budget in (8.0, 1.0, 3.0)),
    *(("site", rounds, clip, 8.0) for rounds, clip in ((10, 1.0), (3, 3.0))),
    *(("site", 3, 3.0, budget) for budget in (3.0, 1.0)),
    ("none", 20, 0.0, 0.0),
)


def changes(setting: Setting) -> list[str]:
    """The keys of a setting."""
    kind, rounds, clip, budget = setting
    private = {
        "none": [],
        "site": [f"method=[{{name: dp, clip: {clip:g}, epsilon: {budget:g}, delta: {DELTA:.1e}}}]"],
        "patient": [f"training.dp_sgd={{clip: {clip:g}, epsilon: {budget:g}, delta: {DELTA:.1e}}}"],
    }
    return [f"training.rounds={rounds}", *private[kind], *FIXED]


def play(
    prepared: LocalRunSetup, start: ServerState, setting: Setting, seed: int
) -> tuple[float, float | None, float | None]:
    """(epsilon spent at the site that spent most, mean and worst AUROC at the held-out sites) of a training from the
    initial model `start`, which is left as it is."""
    pipeline = load_pipeline(PIPELINE, changes(setting))
    bench = SharedModel(prepared.shared.model, build_chain(pipeline.method))
    sites = build_sites(pipeline, {name: site.store for name, site in prepared.sites.items()}, bench)
    for site in sites.values():
        site.training = dataclasses.replace(site.training, seed=seed)
    state = ServerState(0, start.weights.clone(), start.buffers.clone())
    plan = dataclasses.replace(federation_config(pipeline, bench.model), seed=seed, rounds=pipeline.training.rounds)
    federation = Federation(plan, InProcess(sites), state, (), bench.chain)
    for _ in range(plan.rounds):
        federation.run_round()
    spent, rounds = 0.0, pipeline.training.rounds
    if (link := private_link(bench.chain)) is not None:
        spent = epsilon(link.noise, rounds, DELTA)
    for site in sites.values():
        if (own := site.training.patients) is not None:
            steps = site.training.steps(len(site.store.splits["train"]))
            spent = max(spent, patient_epsilon(own.noise, own.rate, rounds * steps, DELTA))
    figures = measured(prepared, state)
    return spent, figures["auroc"], figures["worst_auroc"]


def measure() -> None:
    """Make the runs that the table lacks, one line each as it ends."""
    done = {tuple(row[name] for name in COLUMNS[:5]) for row in read()}
    wanted = [
        (setting, seed, key)
        for seed in SEEDS
        for setting in SETTINGS
        if (key := (setting[0], str(setting[1]), f"{setting[2]:g}", f"{setting[3]:g}", str(seed))) not in done
    ]
    if not wanted:
        return
    prepared = prepare(load_pipeline(PIPELINE, FIXED))
    start = prepared.initial_state()
    for setting, seed, key in wanted:
        began = time.perf_counter()
        figures = play(prepared, start, setting, seed)
        append([*key, *("" if figure is None else f"{figure:.4f}" for figure in figures)])
        print(*key, *figures, f"{time.perf_counter() - began:.0f} s", flush=True)


def append(row: list[str]) -> None:
    """One line of CSV, after the headings where the file is new."""
    new = not RUNS.is_file()
    with RUNS.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(row)


def read() -> list[dict[str, str]]:
    """The runs so far."""
    if not RUNS.is_file():
        return []
    with RUNS.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def head_table() -> str:
    """AUROC against epsilon, mean over seeds with the smallest and the largest."""
    runs, rows = read(), []
    settings = {tuple(run[name] for name in COLUMNS[:4]) for run in runs}
    for setting in sorted(settings, key=lambda own: (list(WORDS).index(own[0]), int(own[1]), -float(own[3]))):
        own = [run for run in runs if tuple(run[name] for name in COLUMNS[:4]) == setting]
        kind, rounds, clip, _ = setting
        cells = []
        for key in ("held_out_auroc", "worst_held_out_auroc"):
            values = [float(run[key]) for run in own]
            cells.append(f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        spent = "none" if kind == "none" else f"{max(float(run['epsilon']) for run in own):.2f}"
        rows.append([WORDS[kind], rounds, clip if kind != "none" else "", spent, str(len(own)), *cells])
    head = ["privacy of", "rounds", "clip", "epsilon", "seeds", "AUROC, held-out sites", "worst held-out site"]
    return table(head, rows)


if __name__ == "__main__":
    measure()
