"""What a run comes to: model.json and summary.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from medfl.methods.core.chain import MethodChain
from medfl.metrics.measure import mean_supported
from medfl.metrics.site_figures import pooled
from medfl.metrics.stability import Stability
from medfl.pipeline.final_evaluation import Calibration, Measured, malignant_classes
from medfl.pipeline.prepare import RunSetup
from medfl.runs.folder import RunFolder
from medfl.runs.versions import versions

Z = 1.959964
"""The 97.5 % point of the normal distribution."""


def model_facts(prepared: RunSetup, run_name: str, tuned: Calibration | None = None) -> dict[str, Any]:
    """model.json: how to rebuild and feed the model, and how to read its scores."""
    tuned = tuned or Calibration()
    pipeline, model = prepared.pipeline, prepared.shared.model
    return {
        "run": run_name,
        "backbone": model.spec.backbone,
        "args": dict(model.spec.args),
        "classes": list(model.spec.classes),
        "size": pipeline.data.size,
        "mean": list(model.mean),
        "std": list(model.std),
        "mpp": pipeline.data.mpp,
        "temperature": tuned.temperature,
        "thresholds": tuned.thresholds,
        "malignant": list(malignant_classes(pipeline.task)),
        "buffers": pipeline.training.buffers,
        "kept_at_sites": kept_at_sites(prepared.shared.chain, pipeline.training.buffers),
        "parameters": model.layout.size,
        "fingerprint": model.fingerprint(),
        "versions": versions(),
    }


def kept_at_sites(chain: MethodChain, buffers: str) -> list[str]:
    """What each training site keeps for itself, so that the global model is not all of what was trained."""
    kept = ["its normalisation layers"] if chain.local_norms else []
    if buffers == "local" and not kept:
        kept = ["its normalisation statistics"]
    return kept + [f"a model of its own ({link.name})" for link in chain.acting("personal_models")]


def summarise(
    prepared: RunSetup,
    folder: RunFolder,
    selected_round: int,
    tuned: Calibration,
    measured: Measured,
) -> dict[str, Any]:
    """summary.json without its timings."""
    pipeline, chain, sites = prepared.pipeline, prepared.shared.chain, measured.sites
    stability = Stability(k=pipeline.evaluation.window, target=pipeline.evaluation.target)
    lost = []
    virtual = None
    for record in folder.records():
        stability.update(record)
        virtual = record.get("virtual_seconds")
        lost += [{"round": record["round"], **failure} for failure in record["failures"]]
    facts = model_facts(prepared, folder.path.name)
    return {
        "pipeline": pipeline.name,
        "run": folder.path.name,
        "method": pipeline.baseline or str(chain),
        "chain": [{"name": pipeline.baseline}] if pipeline.baseline else chain.describe(),
        "seed": pipeline.seed,
        "leaky": prepared.groups_unknown,
        "source": pipeline.data.source,
        "mode": pipeline.data.mode,
        "rounds": pipeline.training.rounds,
        "selected_round": selected_round,
        "select": pipeline.select if isinstance(pipeline.select, str) else pipeline.select.model_dump(),
        "classes": list(pipeline.task.classes),
        "temperature": tuned.temperature,
        "calibration": tuned.calibration,
        "operating": tuned.operating,
        "sites": sites,
        "held_out": group_figures(sites, "held_out"),
        "train_sites": group_figures(sites, "train"),
        "pooled": pooled_figures(sites, measured.sums, pipeline.task.classes) if measured.sums else None,
        "stability": stability.summary(selected_round),
        "virtual_seconds": virtual,
        "failures": lost
        + [
            {"round": selected_round, "phase": phase, **failure}
            for phase, failures in (("validation", tuned.failures), ("test", measured.failures))
            for failure in failures
        ],
        "model": {k: facts[k] for k in ("backbone", "parameters", "fingerprint", "size", "buffers")},
        "mpp": facts["mpp"],
        "threads": torch.get_num_threads(),
        "versions": facts["versions"],
    }


def pooled_figures(
    sites: Mapping[str, Mapping[str, Any]], sums: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> dict[str, Any]:
    """Figures of all patches of the held-out sites, and of the training sites, from merged sums."""
    by_role = {role: {n: sums[n] for n, e in sites.items() if e["role"] == role} for role in ("held_out", "train")}
    return {role: pooled(chosen, classes) for role, chosen in by_role.items()}


def group_figures(sites: Mapping[str, Mapping[str, Any]], role: str) -> dict[str, Any]:
    """Figures over the sites of one role; means over sites, not over patches, so that no site is averaged away.

    Sites are independent, so the standard error of their mean AUROC is the root of the sum of their squared ones over
    their number; `mean_auroc_ci` is 1.96 times that either way, None where a site has no standard error.
    """
    chosen = {name: entry for name, entry in sites.items() if entry["role"] == role}
    auroc = {name: entry["auroc"] for name, entry in chosen.items() if entry["auroc"] is not None}
    errors = [chosen[name].get("auroc_se") for name in auroc]
    mean, known = mean_supported(auroc.values()), [error for error in errors if error is not None]
    half = Z * math.hypot(*known) / len(known) if known and len(known) == len(errors) else None
    ece, before = (
        [entry[key] for entry in chosen.values() if entry.get(key) is not None] for key in ("ece", "ece_before")
    )
    return {
        "sites": sorted(chosen),
        "mean_auroc": mean,
        "mean_auroc_ci": None if mean is None or half is None else [max(0.0, mean - half), min(1.0, mean + half)],
        "worst_auroc": min(auroc.values(), default=None),
        "worst_site": min(auroc, key=lambda name: auroc[name], default=None),
        "mean_ece": mean_supported(ece),
        "worst_ece": max(ece, default=None),
        "mean_ece_before": mean_supported(before),
        "worst_ece_before": max(before, default=None),
    }


def held_out_figures(measured: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The `held_out` part of a summary of the baseline `local_only`, from {trained_at: {measured_at: figures}}.

    A held-out site's figure is its mean over the sites' own models: what an institution can expect that is handed the
    model of one of them. Such means have no interval here: models measured at one site share its patches.
    """
    names = sorted({site for row in measured.values() for site, entry in row.items() if entry["role"] == "held_out"})
    keys = ("auroc", "ece", "ece_before")
    means = {
        name: {"role": "held_out"}
        | {key: mean_supported(row[name].get(key) for row in measured.values() if name in row) for key in keys}
        for name in names
    }
    return group_figures(means, "held_out")
