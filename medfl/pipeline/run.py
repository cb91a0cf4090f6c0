"""One pipeline carried out: federate -> select -> calibrate -> measure at every site -> write the run folder."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medfl import config
from medfl.data.partition import Partition
from medfl.errors import MedflError
from medfl.federation.baselines import own_model
from medfl.federation.server_state import ServerState
from medfl.metrics.group_figures import held_out_figures
from medfl.pipeline.final_evaluation import Calibration, Measured, SelectedModel, calibrate, measure_sites, tune
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from medfl.pipeline.prepare import LocalRunSetup, ProgressCallbacks, RunSetup, prepare
from medfl.pipeline.summary import model_facts, summarise
from medfl.runs.background_writer import Background
from medfl.runs.folder import RunFolder, write_text
from medfl.runs.privacy_ledger import Ledger
from medfl.tracking.background_sync import Mirror

Curves = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves: its folder, its summary, and one line on how tracking ended."""

    folder: RunFolder
    summary: dict[str, Any]
    tracking: str


def run(pipeline: config.Pipeline, out: Path | str | None = None, watcher: ProgressCallbacks | None = None) -> Outcome:
    """Carry out a pipeline in a new run folder.

    Raises:
        MedflError: bad input, before training. GateFailed: a registry gate, after everything is written.
        RunFailed: too many rounds without a quorum.
    """
    began = time.perf_counter()
    watcher = watcher or ProgressCallbacks()
    if pipeline.training.clock == "wall":
        raise MedflError(
            "`training.clock: wall` needs sites in processes of their own; add --engine nvflare, use `medfl deploy`, "
            "or set it to virtual"
        )
    folder = RunFolder.create(pipeline.name, out)
    prepared = prepare(pipeline, watcher)
    prepared.partition.write(folder.allocation)
    write_summary_csv(folder.allocation_summary, prepared.partition.summary())
    write_text(folder.pipeline, dump_pipeline(pipeline))
    return _carry_out(prepared, folder, prepared.initial_state(), {}, began, watcher)


def resume(path: Path | str, watcher: ProgressCallbacks | None = None) -> Outcome:
    """Continue a run from its last whole round; a finished run is only tracked and registered again."""
    began = time.perf_counter()
    watcher = watcher or ProgressCallbacks()
    folder = RunFolder.open(path)
    if folder.engine.is_file():
        raise MedflError(f"the sites of {folder.path} keep their own state; continue it with `medfl resume`")
    pipeline = load_pipeline(folder.pipeline)
    prepared = prepare(pipeline, watcher)
    same_allocation(prepared.partition, folder)
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


def same_allocation(allocation: Partition, folder: RunFolder) -> None:
    """Raise MedflError unless the folder's run was dealt what is dealt now."""
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
    prepared: LocalRunSetup,
    folder: RunFolder,
    state: ServerState,
    spent: Mapping[str, float],
    began: float,
    watcher: ProgressCallbacks,
) -> Outcome:
    def work(watching: ProgressCallbacks) -> dict[str, Any]:
        return play(prepared, folder, state, spent, began, watching)

    return follow(folder, prepared.pipeline, watcher, work)


def play(
    server: RunSetup,
    folder: RunFolder,
    state: ServerState,
    spent: Mapping[str, float],
    began: float,
    watcher: ProgressCallbacks,
) -> dict[str, Any]:
    """Play the rounds that are left, choose, calibrate, measure, and write it all into the run folder.

    Args:
        server: the sites and what is to be done.
        folder: where every whole round is written.
        state: where to start.
        spent: seconds by phase of an earlier part of the run, `total` among them.
        began: `time.perf_counter()` when this part began.
        watcher: who is told.

    Returns:
        summary.json.

    Raises:
        RunFailed: too many rounds without a quorum.
    """
    ledger = Ledger.open(server.shared.chain, folder.privacy)
    seconds = dict(spent)
    before: dict[str, float] = {}

    def after_round(record: dict[str, Any], current: ServerState) -> None:
        phases = {k: v - before.get(k, 0.0) for k, v in federation.seconds.items()}
        before.update(federation.seconds)
        for phase, value in phases.items():
            seconds[phase] = seconds.get(phase, 0.0) + value
        if ledger:
            record = ledger.spend(record)
        memories = [site.memory() for site in server.sites.values()]
        snapshot, so_far = current.snapshot(), dict(seconds)

        def write() -> None:
            folder.save_round(record, phases, snapshot, memories, so_far)
            watcher.saved()

        writer.submit(write)
        watcher.round(record, server.config.rounds)

    federation = server.federation(state, after_round)
    with Background() as writer:
        state = federation.run()
    clock = time.perf_counter()
    if server.shared.chain.arm == "local_only":
        watcher.say("Calibrating each site's own model, then measuring it on the test data of every site, once")
        summary, curves = conclude_alone(server, folder, state)
    else:
        chosen = select_model(server, state)
        watcher.say("Calibrating the selected model on validation data, then measuring it on test data, once")
        summary, curves = conclude(server, folder, chosen)
    seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.perf_counter() - clock
    seconds["prepare"] = server.seconds
    elapsed = time.perf_counter() - began + spent.get("total", 0.0)
    summary["timings"] = {"total": elapsed, "track": 0.0, **seconds}
    if ledger:
        summary["privacy"] = ledger.facts()
    folder.save_curves(server.pipeline.task.classes, curves)
    folder.save_summary(summary)
    return summary


def follow(
    folder: RunFolder,
    pipeline: config.Pipeline,
    watcher: ProgressCallbacks,
    work: Callable[[ProgressCallbacks], dict[str, Any]],
) -> Outcome:
    """Let `work` fill the run folder, MLflow brought up to date meanwhile; then the page, and the outcome.

    Args:
        work: given a watcher to tell of its rounds, returns summary.json, which it has written.
    """
    mirror = Mirror(folder.path, pipeline.tracking) if pipeline.tracking.enabled else None

    def saved() -> None:
        if mirror:
            mirror.notify()

    def round_(record: Mapping[str, Any], rounds: int) -> None:
        saved()
        watcher.round(record, rounds)

    try:
        summary = work(ProgressCallbacks(watcher.say, round_, saved))
    except BaseException:
        if mirror:
            mirror.close(timeout=10.0)
        raise
    if mirror is None:
        return Outcome(folder, summary, "MLflow: off")
    clock = time.perf_counter()
    result = mirror.close(report=_page(folder, watcher))
    total = summary["timings"]["total"] + time.perf_counter() - clock
    summary["timings"] |= {"track": mirror.seconds, "total": total}
    folder.save_summary(summary)
    return Outcome(folder, summary, str(result))


def _page(folder: RunFolder, watcher: ProgressCallbacks) -> str:
    """The report, also written into the run folder. A page that cannot be drawn must not cost the run: then ""."""
    from medfl.report.run_report import write_report

    try:
        return write_report(folder.path).read_text(encoding="utf-8")
    except Exception as error:
        watcher.say(f"The report could not be drawn ({error}); try `medfl report {folder.path}`")
        return ""


def select_model(prepared: RunSetup, state: ServerState) -> SelectedModel:
    """The last model, or the best by the selection metric."""
    if prepared.config.select == "last" or state.best is None:
        return SelectedModel(prepared.config.rounds, state.weights, state.buffers, state.accepted)
    round_, _, weights, buffers = state.best
    return SelectedModel(round_, weights, buffers, state.accepted)


def conclude(prepared: RunSetup, folder: RunFolder, chosen: SelectedModel) -> tuple[dict[str, Any], Curves]:
    """Calibrate and save the chosen model, then measure it: (summary.json, curves of each site)."""
    tuned = tune(prepared, chosen)
    facts = model_facts(prepared, folder.path.name, tuned)
    folder.save_model(prepared.shared.model, chosen.weights, chosen.buffers, facts)
    measured = measure_sites(prepared, chosen, tuned, prepared.roles)
    return summarise(prepared, folder, chosen.round, tuned, measured), measured.curves


def conclude_alone(prepared: RunSetup, folder: RunFolder, state: ServerState) -> tuple[dict[str, Any], Curves]:
    """The same in the `local_only` arm: each site's own model, calibrated on that site's validation data, measured at
    home with all that belongs to it and elsewhere without intervals."""
    rounds, names = prepared.config.rounds, sorted(prepared.config.train_sites)
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    temperatures: dict[str, float | None] = {}
    home = Measured()
    failures: list[Mapping[str, str]] = []
    for name in names:
        own = SelectedModel(rounds, *own_model(state, name), state.accepted)
        tuned = calibrate(prepared, own, [name])
        temperatures[name] = tuned.temperature
        here = measure_sites(prepared, own, tuned, [name])
        elsewhere = measure_sites(prepared, own, tuned, [n for n in prepared.roles if n != name], resamples=0)
        home.sites.update(here.sites)
        home.curves.update(here.curves)
        rows[name] = here.sites | elsewhere.sites
        failures += [*tuned.failures, *here.failures, *elsewhere.failures]
    matrix = {a: {b: entry["auroc"] for b, entry in sorted(row.items())} for a, row in rows.items()}
    summary = summarise(prepared, folder, rounds, Calibration(), replace(home, failures=failures))
    summary |= {"held_out": held_out_figures(rows), "cross_site_auroc": matrix, "temperatures": temperatures}
    return summary, home.curves


def write_summary_csv(path: Path, rows: Iterable[Mapping[str, str | int]]) -> None:
    """allocation_summary.csv: counts and digests only."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["site", "role", "split", "class", "groups", "patches", "digest"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
