"""What each remedy at a hospital that never trained does to calibration and accuracy, and where it does harm.

    uv run python -m benchmarks.adaptation [--seeds 3] [--frozen] [--out docs/results/adaptation.csv]

trains the nine shipped sites of LC25000 by FedAvg as the studies do (a small network from noise, 64 px), or with
`--frozen` as the shipped pipeline does (a linear head on ImageNet features, 128 px), and adapts at the three held-out
sites and at seven further ones of one, two and three classes. Half of a site's source groups adapt, the others judge.
LC25000 has to be at hand (docs/bring-your-own-data.md). About two minutes of one core a seed.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.tables import ROOT
from medfl.config.yaml_file import parse
from medfl.data.atomic_file import write_text
from medfl.messages import AdaptRequest
from medfl.metrics.class_prior import estimated_mix, mix_shift, predicted_mix
from medfl.metrics.measure import measure
from medfl.metrics.remedies import Step, name_of
from medfl.pipeline.adapt_sites import AdaptationPlan, _calibrated, _reference, choose
from medfl.pipeline.adaptation_needs import training_mix
from medfl.pipeline.conclude import select_model
from medfl.pipeline.final_evaluation import SelectedModel, Tuning, tune
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import LocalRunSetup, prepare
from medfl.seeds import seed_for
from medfl.site.adaptation import Adapter, halves, mix_is_believable
from medfl.site.measurement import probabilities
from medfl.site.site import Site

OUT = ROOT / "docs" / "results" / "adaptation.csv"
TRAIN = (
    "lung_centre",
    "colon_clinic",
    "general_hospital",
    "screening_programme",
    "university_hospital",
    "rural_laboratory",
)
HELD_OUT = ("regional_hospital", "foreign_laboratory", "private_laboratory")
FEW: tuple[dict[str, Any], ...] = (
    {"name": "one-brown", "class_mix": {"colon_aca": 1.0}, "stain": "brownish_old"},
    {"name": "one-warm", "class_mix": {"lung_n": 1.0}, "stain": "warm_scanner"},
    {"name": "one-blue", "class_mix": {"lung_scc": 1.0}, "stain": "blue_overstained"},
    {"name": "two-blue", "class_mix": {"lung_aca": 0.5, "lung_scc": 0.5}, "stain": "blue_overstained"},
    {"name": "two-warm", "class_mix": {"colon_aca": 0.5, "colon_n": 0.5}, "stain": "warm_scanner"},
    {"name": "two-brown", "class_mix": {"lung_n": 0.8, "lung_aca": 0.2}, "stain": "brownish_old"},
    {"name": "three-violet", "class_mix": {"lung_n": 0.4, "lung_aca": 0.4, "colon_n": 0.2}, "stain": "violet_rich"},
)
VIEWS: tuple[tuple[Step, ...], ...] = ((), ("normalise",), ("batchnorm",), ("normalise", "batchnorm"))
FIGURES = ("accuracy", "auroc", "ece", "nll")
Row = dict[str, Any]


def made_ready(seed: int, frozen: bool) -> LocalRunSetup:
    """The federation, with the sites of few classes held out, too."""
    base = ROOT / "pipelines" / ("lc25000_small.yaml" if frozen else "studies/base.yaml")
    raw = parse(base.read_text(encoding="utf-8"))
    files = {name: str(ROOT / "site_configs" / f"{name}.yaml") for name in (*TRAIN, *HELD_OUT)}
    few = [{"role": "held_out", "patches": 100, **site} for site in FEW]
    raw["sites"] = {"train": [files[n] for n in TRAIN], "held_out": [*(files[n] for n in HELD_OUT), *few]}
    raw |= {"seed": seed, "disclosure": {"min_count": 1}, "tracking": {"enabled": False}, "adapt": {"remedy": "auto"}}
    raw["training"] |= {"threads": 1, "evaluate_every": 1000}
    return prepare(load_pipeline(yaml.safe_load(yaml.safe_dump(raw))))


def adapter_at(site: Site, setup: LocalRunSetup, request: AdaptRequest, patches: int) -> Adapter:
    """The site's halves, adapted on at most so many patches."""
    seed = seed_for(site.training.seed, "adapt", site.name)
    adapting, judged = halves(site.store.groups, site.store.splits["test"], seed)
    setup.shared.model.load(request.weights, request.buffers)
    mix = site.training.class_mix
    return Adapter(request, site.images, setup.shared, adapting[:patches], judged, mix, site.training.eval_batch_size)


def rows_of(
    site: Site, setup: LocalRunSetup, request: AdaptRequest, temperatures: Mapping[tuple[Step, ...], float]
) -> Iterator[Row]:
    """A line for each remedy: those that are offered, without the mix check, and those that are not. The model's own
    temperature, and that of the adapted model, in lines of their own."""
    classes, mix = setup.pipeline.task.classes, np.asarray(site.training.class_mix)
    few = adapter_at(site, setup, replace(request, temperature=temperatures[("batchnorm",)]), 16)
    whole = adapter_at(site, setup, request, 256)
    plain = predicted_mix(whole._scores(()).adapting.numpy(), len(classes))

    def row(name: str, adapter: Adapter, steps: tuple[Step, ...], shift: np.ndarray | float = 0.0) -> Row:
        scores = adapter._scores(steps)
        labels, groups = site.store.labels[adapter.judged], site.store.groups[adapter.judged]
        measured = measure(probabilities(scores.judged + torch.as_tensor(shift)), labels, groups, classes)
        predicted = predicted_mix(scores.adapting.numpy(), len(classes))
        believed = "batchnorm" not in steps or mix_is_believable(predicted, plain, mix)
        far = float(np.abs(predicted - mix).sum() / 2)
        figures = {key: measured[key] for key in FIGURES}
        return {"site": site.name, "remedy": name, "patches": len(adapter.adapting), **figures} | {
            "mix_distance": far,
            "passes_check": believed,
        }

    for steps in VIEWS:
        name = "+".join(steps) or "none"
        if steps:
            whole = adapter_at(site, setup, request, 256)
            yield row(f"{name}, temperature of the plain model", whole, steps)
        whole = adapter_at(site, setup, replace(request, temperature=temperatures[steps]), 256)
        estimate = estimated_mix(probabilities(whole._scores(steps).adapting), request.training_mix)
        yield row(name, whole, steps)
        yield row(f"{name}+class_mix", whole, steps, mix_shift(mix, request.training_mix))
        yield row(f"{name}+em", whole, steps, mix_shift(estimate, request.training_mix))
    yield row("batchnorm, 16 patches", few, ("batchnorm",))


def _temperature(setup: LocalRunSetup, model: SelectedModel, tuned: Tuning, plan: AdaptationPlan) -> float:
    """That of the adapted model; the plain one's where it has none of its own."""
    return _calibrated(setup, model, tuned, plan).temperature or tuned.temperature or 1.0


def run_of(seed: int, frozen: bool) -> list[Row]:
    """All lines of one seed; what `auto` chooses is printed."""
    setup = made_ready(seed, frozen)
    state = setup.federation(setup.initial_state()).run()
    model = select_model(setup, state)
    tuned = tune(setup, model)
    mix = training_mix(setup.pipeline, setup.shared.chain, setup.partition.counts())
    plan = AdaptationPlan("auto", 256, mix, _reference(setup, model, print))
    chosen = choose(setup, model, tuned, plan, print)
    trials = {name: trial["nll"] and round(trial["nll"], 3) for name, trial in chosen.trials.items()}
    print(f"seed {seed}: auto chooses {chosen.remedy} ({chosen.trials['none']['sites']} sites): {trials}", flush=True)
    request = plan.request(tuned, setup.pipeline)(model.round, model.weights, model.buffers)
    temperatures = {steps: _temperature(setup, model, tuned, replace(plan, remedy=name_of(steps))) for steps in VIEWS}
    print(f"temperatures: {[round(value, 2) for value in temperatures.values()]}", flush=True)
    network = "frozen" if frozen else "small"
    head = {"network": network, "seed": seed, "temperature": tuned.temperature, "auto": chosen.remedy}
    return [
        head | row
        for name in (site.name for site in setup.pipeline.held_out_sites)
        for row in rows_of(setup.sites[name], setup, request, temperatures)
    ]


def main() -> None:
    """Measure and write the table; lines of the other network stay in it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptation")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frozen", action="store_true")
    options = parser.parse_args()
    network = "frozen" if options.frozen else "small"
    rows: list[Row] = []
    if options.out.is_file():
        with options.out.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row["network"] != network]
    for seed in range(1, options.seeds + 1):
        rows += run_of(seed, options.frozen)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, text.getvalue())


if __name__ == "__main__":
    main()
