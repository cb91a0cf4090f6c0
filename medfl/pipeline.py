"""One pipeline carried out: federate -> select -> measure at every site -> write the run folder."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from medfl import config
from medfl.arms import own_model
from medfl.data.allocation import Allocation
from medfl.errors import MedflError
from medfl.loading import dump_pipeline, load_pipeline
from medfl.prepare import Prepared, Watcher, prepare
from medfl.protocol import Failure, Request
from medfl.runs import RunFolder, write_text
from medfl.server import ServerState
from medfl.summary import held_out_figures, model_facts, summarise
from medfl.tracking.mirror import Mirror


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves: its folder, its summary, and one line on how tracking ended."""

    folder: RunFolder
    summary: dict[str, Any]
    tracking: str


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
    rounds = pipeline.training.rounds
    done = state.round > rounds
    watcher.say(
        f"{folder.path}: all rounds are done" if done else f"{folder.path}: going on at round {state.round} of {rounds}"
    )
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

    federation = prepared.federation(state, after_round)
    try:
        state = federation.run()
        if prepared.bench.chain.arm == "local_only":
            watcher.say("Measuring each site's own model on the test data of every site, once")
            clock = time.perf_counter()
            summary = summarise_alone(prepared, folder, state)
        else:
            chosen = select_model(prepared, state)
            facts = model_facts(prepared, folder.path.name)
            folder.save_model(prepared.bench.model, chosen.weights, chosen.buffers, facts)
            watcher.say("Measuring the selected model on test data, once")
            clock = time.perf_counter()
            sites, failures = measure_sites(prepared, chosen, sorted(prepared.sites))
            summary = summarise(prepared, folder, chosen.round, sites, failures)
        seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.perf_counter() - clock
    except BaseException:
        if mirror:
            mirror.close(timeout=10.0)
        raise
    seconds["prepare"] = prepared.seconds
    elapsed = time.perf_counter() - began + spent.get("total", 0.0)
    summary["timings"] = {"total": elapsed, "track": 0.0, **seconds}
    folder.save_summary(summary)
    tracked = "MLflow: off"
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


def summarise_alone(prepared: Prepared, folder: RunFolder, state: ServerState) -> dict[str, Any]:
    """summary.json of the `local_only` arm: each site's own model at home, and the AUROC of every model everywhere."""
    rounds, names = prepared.plan.rounds, sorted(prepared.plan.train_sites)
    measured: dict[str, dict[str, dict[str, Any]]] = {}
    sites: dict[str, dict[str, Any]] = {}
    failures: list[dict[str, str]] = []
    for name in names:
        own = Chosen(rounds, *own_model(state, name), state.accepted)
        at_home, lost = measure_sites(prepared, own, [name])
        elsewhere, more = measure_sites(prepared, own, [n for n in sorted(prepared.sites) if n != name], resamples=0)
        sites |= at_home
        measured[name] = at_home | elsewhere
        failures += lost + more
    matrix = {a: {b: entry["auroc"] for b, entry in sorted(row.items())} for a, row in measured.items()}
    summary = summarise(prepared, folder, rounds, sites, failures)
    return summary | {"held_out": held_out_figures(measured), "cross_site_auroc": matrix}


def measure_sites(
    prepared: Prepared, chosen: Chosen, names: Iterable[str], resamples: int | None = None
) -> tuple[dict[str, dict[str, Any]], list[dict[str, str]]]:
    """Test figures at each named site, and the failures; intervals from the pipeline's resamples, or as stated."""

    def request(name: str) -> Request:
        return Request(
            round=chosen.round,
            weights=chosen.weights,
            buffers=chosen.buffers,
            train=False,
            evaluate=("test",),
            resamples=prepared.pipeline.evaluation.resamples if resamples is None else resamples,
            last_accepted_round=chosen.accepted.get(name, -1),
        )

    measured: dict[str, dict[str, Any]] = {}
    failures = []
    for answer in prepared.transport.call(list(names), request):
        if isinstance(answer, Failure):
            failures.append({"site": answer.site, "reason": answer.reason})
        else:
            own = {split[5:]: dict(m) for split, m in answer.metrics.items() if split.startswith("test_")}
            entry = {"role": prepared.sites[answer.site].role, **answer.metrics["test"]}
            measured[answer.site] = entry | ({"models": own} if own else {})
    return measured, failures


def write_summary_csv(path: Path, allocation: Allocation) -> None:
    """allocation_summary.csv: counts and digests only."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["site", "role", "split", "class", "groups", "patches", "digest"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(allocation.summary())
    write_text(path, text.getvalue())
