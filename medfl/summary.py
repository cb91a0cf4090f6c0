"""What a run comes to: model.json and summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from medfl import runs
from medfl.metrics.measure import mean_supported
from medfl.metrics.stability import Stability
from medfl.prepare import Prepared
from medfl.runs import RunFolder


def model_facts(prepared: Prepared, run_name: str) -> dict[str, Any]:
    """model.json: how to rebuild and feed the model."""
    pipeline, model = prepared.pipeline, prepared.bench.model
    return {
        "run": run_name,
        "backbone": model.spec.backbone,
        "args": dict(model.spec.args),
        "classes": list(model.spec.classes),
        "size": pipeline.data.size,
        "mean": list(model.mean),
        "std": list(model.std),
        "mpp": pipeline.data.mpp,
        "temperature": None,
        "buffers": pipeline.training.buffers,
        "parameters": model.layout.size,
        "fingerprint": model.fingerprint(),
        "versions": runs.versions(),
    }


def summarise(
    prepared: Prepared,
    folder: RunFolder,
    selected_round: int,
    sites: Mapping[str, Mapping[str, Any]],
    failures: list[dict[str, str]],
) -> dict[str, Any]:
    """summary.json without its timings."""
    pipeline, chain = prepared.pipeline, prepared.bench.chain
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
        "method": str(chain),
        "chain": chain.describe(),
        "seed": pipeline.seed,
        "leaky": prepared.allocation.leaky,
        "source": pipeline.data.source,
        "mode": pipeline.data.mode,
        "rounds": pipeline.training.rounds,
        "selected_round": selected_round,
        "select": pipeline.select if isinstance(pipeline.select, str) else pipeline.select.model_dump(),
        "classes": list(pipeline.task.classes),
        "sites": dict(sites),
        "held_out": group_figures(sites, "held_out"),
        "train_sites": group_figures(sites, "train"),
        "stability": stability.summary(selected_round),
        "virtual_seconds": virtual,
        "failures": lost + [{"round": selected_round, "phase": "test", **failure} for failure in failures],
        "model": {k: facts[k] for k in ("backbone", "parameters", "fingerprint", "size", "buffers")},
        "mpp": facts["mpp"],
        "threads": torch.get_num_threads(),
        "versions": facts["versions"],
    }


def group_figures(sites: Mapping[str, Mapping[str, Any]], role: str) -> dict[str, Any]:
    """Figures over the sites of one role; means over sites, not over patches, so that no site is averaged away."""
    chosen = {name: entry for name, entry in sites.items() if entry["role"] == role}
    auroc = {name: entry["auroc"] for name, entry in chosen.items() if entry["auroc"] is not None}
    ece = [entry["ece"] for entry in chosen.values() if entry["ece"] is not None]
    return {
        "sites": sorted(chosen),
        "mean_auroc": mean_supported(auroc.values()),
        "worst_auroc": min(auroc.values(), default=None),
        "worst_site": min(auroc, key=lambda name: auroc[name], default=None),
        "mean_ece": mean_supported(ece),
        "worst_ece": max(ece, default=None),
    }


def held_out_figures(measured: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The `held_out` part of a summary in the `local_only` arm, from {trained_at: {measured_at: figures}}.

    A held-out site's figure is its mean over the sites' own models: what an institution can expect that is handed the
    model of one of them.
    """
    names = sorted({site for row in measured.values() for site, entry in row.items() if entry["role"] == "held_out"})
    means = {
        name: {"role": "held_out"}
        | {key: mean_supported(row[name][key] for row in measured.values() if name in row) for key in ("auroc", "ece")}
        for name in names
    }
    return group_figures(means, "held_out")
