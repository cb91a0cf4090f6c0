"""What a run comes to: model.json and summary.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from medfl import config
from medfl.data.sources.source_registry import source_class
from medfl.methods.core.chain import MethodChain, build_chain
from medfl.methods.differential_privacy import private_link
from medfl.metrics.group_figures import group_figures
from medfl.metrics.record_types import RoundRecord, RunFailure, RunSummary
from medfl.metrics.site_figures import pooled
from medfl.metrics.stability import Stability
from medfl.metrics.subgroups import pooled_subgroups
from medfl.metrics.targets import MALIGNANT
from medfl.metrics.units import pooled_units
from medfl.model.trained_part import train_facts
from medfl.pipeline.final_evaluation import Measured, Tuning
from medfl.pipeline.malignancy import malignant_classes
from medfl.pipeline.prepare import RunSetup
from medfl.runs.folder import RunFolder
from medfl.runs.versions import versions

MODEL_FACTS = ("backbone", "parameters", "fingerprint", "size", "buffers", "start", "train", "trained_parameters")
"""What of model.json stands in summary.json too."""


def model_facts(prepared: RunSetup, run_name: str, tuned: Tuning | None = None) -> dict[str, Any]:
    """model.json: how to rebuild and feed the model, and how to read its scores."""
    tuned = tuned or Tuning()
    pipeline, model = prepared.pipeline, prepared.shared.model
    return {
        "run": run_name,
        "backbone": model.spec.backbone,
        "args": dict(model.spec.args),
        "classes": list(model.spec.classes),
        "size": pipeline.data.size,
        "mean": list(model.mean),
        "std": list(model.std),
        "interpolation": model.input.interpolation or None,
        "mpp": pipeline.data.mpp,
        **({} if model.bag_dim is None else {"origin": dataclasses.asdict(prepared.origin)}),
        **_of_slides(prepared),
        "render": pipeline.data.render,
        **({} if pipeline.data.store is None else {"jpeg": pipeline.data.store.jpeg}),
        "temperature": tuned.temperature,
        "calibration": None if tuned.calibration is None else tuned.calibration.vector,
        "thresholds": tuned.thresholds,
        "unit_thresholds": {key: dict(own) for key, own in tuned.unit_thresholds.items()},
        "patients": pipeline.evaluation.model_dump(include={"patients"})["patients"],
        "malignant": list(malignant_classes(pipeline.task)),
        "buffers": pipeline.training.buffers,
        "kept_at_sites": kept_at_sites(prepared.shared.chain, pipeline.training.buffers),
        "start": {key: value or None for key, value in dataclasses.asdict(model.start).items()},
        "pooling": model.spec.pooling,
        "hidden": model.spec.hidden,
        "train": train_facts(model.spec.train),
        "frozen": model.frozen_digest() or None,
        "parameters": sum(parameter.numel() for parameter in model.net.parameters()),
        "trained_parameters": model.layout.size,
        "fingerprint": model.saved_fingerprint(),
        "versions": versions(),
    }


def _of_slides(prepared: RunSetup) -> dict[str, Any]:
    """What model.json says where slides were read: how they are tiled, and what gives the features of a tile."""
    pipeline = prepared.pipeline
    kinds = {(site.data and site.data.source) or pipeline.data.source for site in pipeline.all_sites}
    if not any(source_class(kind, pipeline.model.mil is not None).reads_by_scale for kind in kinds):
        return {}
    facts: dict[str, Any] = {"tile": (pipeline.data.tile or config.TileSettings()).model_dump(exclude_none=True)}
    if (encoder := pipeline.model.encoder) is not None:
        facts["encoder"] = {"name": prepared.origin.encoder, **encoder.model_dump(mode="json", exclude_none=True)}
    return facts


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
    tuned: Tuning,
    measured: Measured,
) -> RunSummary:
    """summary.json without its timings."""
    pipeline, chain, sites = prepared.pipeline, prepared.shared.chain, measured.sites
    stability = Stability(k=pipeline.evaluation.window, target=pipeline.evaluation.target)
    failures: list[RunFailure] = []
    virtual = None
    for record in folder.records():
        stability.update(record)
        virtual = record.get("virtual_seconds")
        failures += [{"round": record["round"], "site": f["site"], "reason": f["reason"]} for f in record["failures"]]
    for phase, lost in (("validation", tuned.failures), ("test", measured.failures)):
        failures += [{"round": selected_round, "phase": phase, **failure} for failure in lost]
    facts = model_facts(prepared, folder.path.name)
    stop, select = early_stop(pipeline, folder.records()), pipeline.select
    summary: RunSummary = {
        "pipeline": pipeline.name,
        "run": folder.path.name,
        "method": pipeline.baseline or str(chain),
        "chain": [{"name": pipeline.baseline}] if pipeline.baseline else chain.describe(),
        "papers": {m.name: m.paper for m in chain.methods if m.paper},
        "seed": pipeline.seed,
        "leaky": prepared.groups_unknown,
        "source": pipeline.data.source,
        "mode": pipeline.data.mode,
        "rounds": pipeline.training.rounds,
        "selected_round": selected_round,
        "select": select if isinstance(select, str) else select.model_dump(exclude_none=True),
        "classes": list(pipeline.task.classes),
        "temperature": tuned.temperature,
        "calibration": tuned.fit,
        "operating": tuned.operating,
        "sites": sites,
        "held_out": group_figures(sites, "held_out"),
        "train_sites": group_figures(sites, "train"),
        "pooled": pooled_figures(sites, measured.sums, pipeline.task.classes, malignant_classes(pipeline.task))
        if measured.sums
        else None,
        "stability": stability.summary(selected_round),
        "virtual_seconds": virtual,
        "failures": failures,
        "model": {key: facts[key] for key in MODEL_FACTS},
        "mpp": facts["mpp"],
        "threads": torch.get_num_threads(),
        "versions": facts["versions"],
    }
    if stop is not None:
        summary["stopped"] = stop
    return summary


def early_stop(pipeline: config.Pipeline, records: Sequence[RoundRecord]) -> dict[str, Any] | None:
    """Why a run closed before its last planned round, for summary.json; None where it did not.

    Args:
        records: all its rounds.
    """
    planned, select = pipeline.training.rounds, pipeline.select
    last = records[-1]["round"] if records else planned
    if last >= planned:
        return None
    if (link := private_link(build_chain(pipeline.method))) is not None:
        reason = (
            f"ended after {last} of {planned} rounds: one more would have spent more than the epsilon of "
            f"{link.epsilon:g} (`method.dp.epsilon`)"
        )
        return {"round": last, "epsilon": link.epsilon, "reason": reason}
    if (budget := pipeline.training.dp_sgd) is not None:
        reason = (
            f"ended after {last} of {planned} rounds: one more would have spent more than the epsilon of "
            f"{budget.epsilon:g} (`training.dp_sgd.epsilon`)"
        )
        return {"round": last, "epsilon": budget.epsilon, "reason": reason}
    if isinstance(select, str) or select.patience is None:
        return None
    reason = (
        f"ended after {last} of {planned} rounds: {select.metric} had not been better for {select.patience} "
        f"round{'s' if select.patience > 1 else ''} (`select.patience`)"
    )
    return {"round": last, "metric": select.metric, "patience": select.patience, "reason": reason}


def pooled_figures(
    sites: Mapping[str, Mapping[str, Any]],
    sums: Mapping[str, Mapping[str, Any]],
    classes: Sequence[str],
    malignant: Sequence[str],
) -> dict[str, Any]:
    """Figures of all patches of the held-out sites, and of the training sites, from merged sums; those of slides, of
    patients and of subgroups (by column and value) with them."""
    by_role = {role: {n: sums[n] for n, e in sites.items() if e["role"] == role} for role in ("held_out", "train")}
    points = [(entry.get("operating") or {}).get(MALIGNANT) or {} for entry in sites.values()]
    threshold = next((point["threshold"] for point in points if point.get("threshold") is not None), None)
    made: dict[str, Any] = {}
    for role, chosen in by_role.items():
        made[role] = pooled(chosen, classes)
        if units := pooled_units({name: sites[name] for name in chosen}, chosen, classes):
            made[role] |= units
        if subgroups := pooled_subgroups(chosen, classes, malignant, threshold):
            made[role]["subgroups"] = subgroups
    return made
