"""One pipeline carried out: federate -> select -> calibrate -> measure at every site -> write the run folder."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medfl import config
from medfl.arms import own_model
from medfl.background import Background
from medfl.closing import Chosen, Measured, Tuned, calibrate, measure_sites, tune
from medfl.data.allocation import Allocation
from medfl.errors import MedflError
from medfl.loading import dump_pipeline, load_pipeline
from medfl.prepare import Prepared, Watcher, prepare
from medfl.privacy import Ledger
from medfl.runs import RunFolder, write_text
from medfl.server import ServerState
from medfl.summary import held_out_figures, model_facts, summarise
from medfl.tracking.mirror import Mirror

Curves = Mapping[str, Mapping[str, Any]]


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
    ledger = Ledger.open(prepared.bench.chain, folder.privacy)
    mirror = Mirror(folder.path, pipeline.tracking) if pipeline.tracking.enabled else None
    writer = Background()
    seconds = dict(spent)
    before: dict[str, float] = {}

    def after_round(record: dict[str, Any], current: ServerState) -> None:
        phases = {k: v - before.get(k, 0.0) for k, v in federation.seconds.items()}
        before.update(federation.seconds)
        for phase, value in phases.items():
            seconds[phase] = seconds.get(phase, 0.0) + value
        if ledger:
            record = ledger.spend(record)
        memories = [site.memory() for site in prepared.sites.values()]
        state, spent_so_far = current.snapshot(), dict(seconds)

        def write() -> None:
            folder.save_round(record, phases, state, memories, spent_so_far)
            if mirror:
                mirror.notify()

        writer.submit(write)
        watcher.round(record, prepared.plan.rounds)

    federation = prepared.federation(state, after_round)
    try:
        with writer:
            state = federation.run()
        if prepared.bench.chain.arm == "local_only":
            watcher.say("Calibrating each site's own model, then measuring it on the test data of every site, once")
            clock = time.perf_counter()
            summary, curves = conclude_alone(prepared, folder, state)
        else:
            chosen = select_model(prepared, state)
            watcher.say("Calibrating the selected model on validation data, then measuring it on test data, once")
            clock = time.perf_counter()
            summary, curves = conclude(prepared, folder, chosen)
        seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.perf_counter() - clock
    except BaseException:
        if mirror:
            mirror.close(timeout=10.0)
        raise
    seconds["prepare"] = prepared.seconds
    elapsed = time.perf_counter() - began + spent.get("total", 0.0)
    summary["timings"] = {"total": elapsed, "track": 0.0, **seconds}
    if ledger:
        summary["privacy"] = ledger.facts()
    folder.save_curves(pipeline.task.classes, curves)
    folder.save_summary(summary)
    tracked = "MLflow: off"
    if mirror:
        result = mirror.close(report=_page(folder, watcher))
        tracked = str(result)
        summary["timings"] |= {"track": mirror.seconds, "total": time.perf_counter() - began + spent.get("total", 0.0)}
        folder.save_summary(summary)
    return Outcome(folder, summary, tracked)


def _page(folder: RunFolder, watcher: Watcher) -> str:
    """The report, also written into the run folder. A page that cannot be drawn must not cost the run: then ""."""
    from medfl.report.run import write_report

    try:
        return write_report(folder.path).read_text(encoding="utf-8")
    except Exception as error:
        watcher.say(f"The report could not be drawn ({error}); try `medfl report {folder.path}`")
        return ""


def select_model(prepared: Prepared, state: ServerState) -> Chosen:
    """The last model, or the best by the selection metric."""
    if prepared.plan.select == "last" or state.best is None:
        return Chosen(prepared.plan.rounds, state.weights, state.buffers, state.accepted)
    round_, _, weights, buffers = state.best
    return Chosen(round_, weights, buffers, state.accepted)


def conclude(prepared: Prepared, folder: RunFolder, chosen: Chosen) -> tuple[dict[str, Any], Curves]:
    """Calibrate and save the chosen model, then measure it: (summary.json, curves of each site)."""
    tuned = tune(prepared, chosen)
    facts = model_facts(prepared, folder.path.name, tuned)
    folder.save_model(prepared.bench.model, chosen.weights, chosen.buffers, facts)
    measured = measure_sites(prepared, chosen, tuned, prepared.sites)
    return summarise(prepared, folder, chosen.round, tuned, measured), measured.curves


def conclude_alone(prepared: Prepared, folder: RunFolder, state: ServerState) -> tuple[dict[str, Any], Curves]:
    """The same in the `local_only` arm: each site's own model, calibrated on that site's validation data, measured at
    home with all that belongs to it and elsewhere without intervals."""
    rounds, names = prepared.plan.rounds, sorted(prepared.plan.train_sites)
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    temperatures: dict[str, float | None] = {}
    home = Measured()
    failures: list[Mapping[str, str]] = []
    for name in names:
        own = Chosen(rounds, *own_model(state, name), state.accepted)
        tuned = calibrate(prepared, own, [name])
        temperatures[name] = tuned.temperature
        here = measure_sites(prepared, own, tuned, [name])
        elsewhere = measure_sites(prepared, own, tuned, [n for n in prepared.sites if n != name], resamples=0)
        home.sites.update(here.sites)
        home.curves.update(here.curves)
        rows[name] = here.sites | elsewhere.sites
        failures += [*tuned.failures, *here.failures, *elsewhere.failures]
    matrix = {a: {b: entry["auroc"] for b, entry in sorted(row.items())} for a, row in rows.items()}
    summary = summarise(prepared, folder, rounds, Tuned(), replace(home, failures=failures))
    summary |= {"held_out": held_out_figures(rows), "cross_site_auroc": matrix, "temperatures": temperatures}
    return summary, home.curves


def write_summary_csv(path: Path, allocation: Allocation) -> None:
    """allocation_summary.csv: counts and digests only."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["site", "role", "split", "class", "groups", "patches", "digest"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(allocation.summary())
    write_text(path, text.getvalue())
