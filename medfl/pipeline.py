"""One pipeline carried out: prepare data -> federate -> select -> measure at every site -> write the run folder."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfl import config, runs
from medfl.data.allocation import Allocation, allocate
from medfl.data.batches import AugmentSpec, Jitter
from medfl.data.patches import PatchStore
from medfl.data.store import render
from medfl.errors import MedflError
from medfl.federation import Federation, Plan, ServerState
from medfl.loading import dump_pipeline, load_pipeline
from medfl.methods.base import Chain, build_chain
from medfl.metrics.measure import mean_supported
from medfl.metrics.stability import Stability
from medfl.model import FlatModel, ModelSpec
from medfl.protocol import Failure, Request
from medfl.runs import RunFolder, write_text
from medfl.seeds import seed_for
from medfl.site import LocalWork, Site, Workbench
from medfl.tracking.mirror import Mirror
from medfl.transport import InProcess, Transport


@dataclass(frozen=True)
class Watcher:
    """Who is told about progress: `say` one line of text, `round` every round record and the number of rounds."""

    say: Callable[[str], None] = lambda text: None
    round: Callable[[Mapping[str, Any], int], None] = lambda record, rounds: None


@dataclass
class Prepared:
    """A pipeline with its data dealt and rendered, its model built, and its sites ready."""

    pipeline: config.Pipeline
    allocation: Allocation
    sites: dict[str, Site]
    bench: Workbench
    plan: Plan
    seconds: float = 0.0

    @property
    def transport(self) -> Transport:
        """The in-process engine over these sites."""
        return InProcess(self.sites)

    def initial_state(self) -> ServerState:
        """Round 0: the model as it was built."""
        return ServerState(0, self.bench.model.weights(), self.bench.model.buffers())


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves: its folder, its summary, and how tracking ended."""

    folder: RunFolder
    summary: dict[str, Any]
    tracking: str
    registered: str | None = None


def prepare(pipeline: config.Pipeline, watcher: Watcher | None = None) -> Prepared:
    """Deal and render the data, build the model and the sites.

    Raises:
        MedflError: anything wrong with data, model or method, by name.
    """
    watcher = watcher or Watcher()
    began = time.perf_counter()
    chain = build_chain(pipeline.method)
    if pipeline.training.buffers == "local" and pipeline.select != "last":
        raise MedflError("`select` must be last with `training.buffers: local`: sites keep only their latest buffers")
    device = resolve_device(pipeline.training.device)
    torch.set_num_threads(pipeline.training.threads or os.cpu_count() or 1)
    bench = workbench(pipeline, chain, device)
    if pipeline.data.source == "tissue" and pipeline.data.root is None:
        watcher.say("Tissue: generated from a seed and kept in the cache for the next run")
    allocation = allocate(pipeline)
    allocation.check()
    stores = {share.site: render(pipeline, _site(pipeline, share.site), share) for share in allocation.shares}
    sites = build_sites(pipeline, stores, bench)
    return Prepared(pipeline, allocation, sites, bench, plan_of(pipeline, bench.model), time.perf_counter() - began)


def _site(pipeline: config.Pipeline, name: str) -> config.Site:
    return next(site for site in pipeline.all_sites if site.name == name)


def resolve_device(stated: str) -> torch.device:
    """ "auto" takes cuda, then mps, then the CPU. Raises MedflError for a device that is not there."""
    if stated == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(stated)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise MedflError(f"`training.device`: {stated} is not available here ({first}); use auto or cpu") from None
    return device


def workbench(pipeline: config.Pipeline, chain: Chain, device: torch.device) -> Workbench:
    """The one network and what goes with it."""
    training = pipeline.training
    on_cuda = device.type == "cuda"
    spec = ModelSpec(
        backbone=pipeline.model.backbone,
        classes=tuple(pipeline.task.classes),
        args=pipeline.model.args,
        pretrained=pipeline.model.pretrained,
        checkpoint=pipeline.model.checkpoint,
        channels_last=on_cuda if training.channels_last is None else training.channels_last,
    )
    model = FlatModel(spec, device, seed=seed_for(pipeline.seed, "init"))
    precision = ("bf16" if on_cuda else "float32") if training.precision == "auto" else training.precision
    return Workbench(model, chain, precision=precision, compiled=training.compile)


def local_work(pipeline: config.Pipeline, site: config.Site) -> LocalWork:
    """A site's local work: the pipeline's, with what the site states for itself."""
    training, augment = pipeline.training, pipeline.training.augment
    steps = site.local_steps or (None if site.local_epochs else training.local_steps)
    return LocalWork(
        batch_size=training.batch_size,
        local_epochs=site.local_epochs or training.local_epochs,
        local_steps=steps,
        optimizer=training.optimizer.name,
        lr=training.optimizer.lr,
        momentum=training.optimizer.momentum,
        weight_decay=training.optimizer.weight_decay,
        weighted_loss=training.weighted_loss,
        augment=AugmentSpec(
            flips=augment.flips,
            rotate90=augment.rotate90,
            brightness=augment.brightness,
            contrast=augment.contrast,
            saturation=augment.saturation,
            hue=augment.hue,
        ),
        seed=pipeline.seed,
        eval_batch_size=pipeline.evaluation.batch_size,
        bins=pipeline.evaluation.bins,
    )


def build_sites(pipeline: config.Pipeline, stores: Mapping[str, PatchStore], bench: Workbench) -> dict[str, Site]:
    """The pipeline's sites over their rendered stores."""
    jitter: Jitter | None = None
    if pipeline.training.augment.jitter:
        from medfl.data.transforms import albumentations_jitter

        jitter = albumentations_jitter(pipeline.training.augment.jitter)
    return {
        name: Site(
            name,
            _site(pipeline, name).role or "train",
            store,
            local_work(pipeline, _site(pipeline, name)),
            bench,
            jitter=jitter,
            buffers=pipeline.training.buffers,
        )
        for name, store in stores.items()
    }


def plan_of(pipeline: config.Pipeline, model: FlatModel) -> Plan:
    """What the round loop needs to know of a pipeline."""
    training, select = pipeline.training, pipeline.select
    return Plan(
        train_sites=tuple(site.name for site in pipeline.train_sites),
        held_out_sites=tuple(site.name for site in pipeline.held_out_sites),
        rounds=training.rounds,
        seed=pipeline.seed,
        stages=model.stages(),
        sites_per_round=training.sites_per_round,
        quorum=training.quorum,
        evaluate_every=training.evaluate_every,
        held_out_every=training.held_out_every,
        lr_scale=lambda t: lr_scale(training.schedule, t, training.rounds),
        select="last" if isinstance(select, str) else (select.metric, select.mode),
    )


def lr_scale(schedule: config.Schedule, t: int, rounds: int) -> float:
    """Factor on the learning rate in round t of `rounds`."""
    warm = min(1.0, (t + 1) / (schedule.warmup + 1))
    if schedule.name == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * t / max(1, rounds)))
    if schedule.name == "step":
        return warm * schedule.gamma ** (t // schedule.every)
    return warm


def run(pipeline: config.Pipeline, out: Path | str | None = None, watcher: Watcher | None = None) -> Outcome:
    """Carry out a pipeline in a new run folder.

    Raises:
        MedflError: bad input, before training. GateFailed: a registry gate, after everything is written.
        RunFailed: too many rounds without a quorum.
    """
    began = time.perf_counter()
    watcher = watcher or Watcher()
    folder = RunFolder.create(pipeline.name, out)
    prepared = prepare(pipeline, watcher)
    prepared.allocation.write(folder.allocation)
    write_summary_csv(folder.allocation_summary, prepared.allocation)
    write_text(folder.pipeline, dump_pipeline(pipeline))
    return _carry_out(prepared, folder, prepared.initial_state(), {}, began, watcher)


def resume(path: Path | str, watcher: Watcher | None = None) -> Outcome:
    """Continue a run from its last whole round; a finished run is only tracked and registered again."""
    began = time.perf_counter()
    watcher = watcher or Watcher()
    folder = RunFolder.open(path)
    pipeline = load_pipeline(folder.pipeline)
    prepared = prepare(pipeline, watcher)
    _same_allocation(prepared.allocation, folder)
    loaded = folder.load_checkpoint(prepared.sites)
    state, spent = loaded if loaded else (prepared.initial_state(), {})
    state.lost = 0
    folder.truncate(state.round)
    watcher.say(f"Resuming {folder.path} at round {state.round} of {pipeline.training.rounds}")
    return _carry_out(prepared, folder, state, spent, began, watcher)


def _same_allocation(allocation: Allocation, folder: RunFolder) -> None:
    probe = folder.path / "allocation.check"
    allocation.write(probe)
    same = folder.allocation.is_file() and probe.read_bytes() == folder.allocation.read_bytes()
    probe.unlink()
    if not same:
        raise MedflError(
            f"the data behind {folder.path} has changed: {folder.allocation.name} no longer agrees with what is dealt "
            f"now; restore the data or start a new run"
        )


def _carry_out(
    prepared: Prepared,
    folder: RunFolder,
    state: ServerState,
    spent: Mapping[str, float],
    began: float,
    watcher: Watcher,
) -> Outcome:
    pipeline = prepared.pipeline
    mirror = Mirror(folder.path, pipeline.tracking) if pipeline.tracking.enabled else None
    seconds = dict(spent)
    before: dict[str, float] = {}

    def after_round(record: dict[str, Any], current: ServerState) -> None:
        phases = {k: v - before.get(k, 0.0) for k, v in federation.seconds.items()}
        before.update(federation.seconds)
        for phase, value in phases.items():
            seconds[phase] = seconds.get(phase, 0.0) + value
        folder.append(record, phases)
        folder.save_checkpoint(current, prepared.sites.values(), seconds)
        if mirror:
            mirror.notify()
        watcher.round(record, prepared.plan.rounds)

    federation = Federation(prepared.plan, prepared.transport, state, after_round)
    try:
        state = federation.run()
        chosen = select_model(prepared, state)
        folder.save_model(prepared.bench.model, chosen.weights, chosen.buffers, model_facts(prepared, folder.path.name))
        watcher.say("Measuring the selected model on test data, once")
        clock = time.perf_counter()
        sites, failures = measure_sites(prepared, chosen, sorted(prepared.sites))
        seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.perf_counter() - clock
        summary = summarise(prepared, folder, chosen.round, sites, failures)
    finally:
        if mirror and not folder.summary.exists():
            mirror.notify()
    seconds["prepare"] = prepared.seconds
    elapsed = time.perf_counter() - began + spent.get("total", 0.0)
    summary["timings"] = {"total": elapsed, "track": 0.0, **seconds}
    folder.save_summary(summary)
    tracked = "off"
    if mirror:
        result = mirror.close()
        tracked = str(result)
        summary["timings"] |= {"track": mirror.seconds, "total": time.perf_counter() - began + spent.get("total", 0.0)}
        folder.save_summary(summary)
    return Outcome(folder, summary, tracked)


@dataclass(frozen=True)
class Chosen:
    """The model that counts: round and wire vectors."""

    round: int
    weights: Tensor
    buffers: Tensor
    accepted: Mapping[str, int] = field(default_factory=dict)


def select_model(prepared: Prepared, state: ServerState) -> Chosen:
    """The last model, or the best by the selection metric."""
    if prepared.plan.select == "last" or state.best is None:
        return Chosen(prepared.plan.rounds, state.weights, state.buffers, state.accepted)
    round_, _, weights, buffers = state.best
    return Chosen(round_, weights, buffers, state.accepted)


def measure_sites(
    prepared: Prepared, chosen: Chosen, names: Iterable[str]
) -> tuple[dict[str, dict[str, Any]], list[dict[str, str]]]:
    """Test figures with intervals at each named site, and the failures."""

    def request(name: str) -> Request:
        return Request(
            round=chosen.round,
            weights=chosen.weights,
            buffers=chosen.buffers,
            train=False,
            evaluate=("test",),
            resamples=prepared.pipeline.evaluation.resamples,
            last_accepted_round=chosen.accepted.get(name, -1),
        )

    measured: dict[str, dict[str, Any]] = {}
    failures = []
    for answer in prepared.transport.call(list(names), request):
        if isinstance(answer, Failure):
            failures.append({"site": answer.site, "reason": answer.reason})
        else:
            measured[answer.site] = {"role": prepared.sites[answer.site].role, **answer.metrics["test"]}
    return measured, failures


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
        "mpp": pipeline.data.mpp or common_mpp(pipeline),
        "temperature": None,
        "buffers": pipeline.training.buffers,
        "parameters": model.layout.size,
        "fingerprint": model.fingerprint(),
        "versions": runs.versions(),
    }


def common_mpp(pipeline: config.Pipeline) -> float | None:
    """The sites' microns per pixel when all state the same, else None."""
    stated = {site.mpp for site in pipeline.all_sites}
    return stated.pop() if len(stated) == 1 else None


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
    for record in folder.records():
        stability.update(record)
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


def write_summary_csv(path: Path, allocation: Allocation) -> None:
    """allocation_summary.csv: counts and digests only."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["site", "role", "split", "class", "groups", "patches", "digest"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(allocation.summary())
    write_text(path, text.getvalue())
