"""What a run comes to once its rounds are played: a model chosen, calibrated, measured at every site, and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from medfl.errors import RunFailed
from medfl.federation.baselines import has_own_model, own_model
from medfl.federation.reply_checks import is_finite
from medfl.federation.server_state import ServerState
from medfl.metrics.group_figures import held_out_figures
from medfl.metrics.record_types import FailureRecord, RunSummary, SiteResult
from medfl.pipeline.adapt_sites import adapt_sites, plan_adaptation
from medfl.pipeline.adaptation_needs import training_mix
from medfl.pipeline.feature_signature import feature_signature
from medfl.pipeline.final_evaluation import Measured, SelectedModel, Tuning, calibrate, measure_sites, tune
from medfl.pipeline.monitor_reference import monitoring_facts
from medfl.pipeline.prepare import RunSetup
from medfl.pipeline.summary import model_facts, summarise
from medfl.runs.data_record import read_rows
from medfl.runs.folder import RunFolder
from medfl.runs.progress import ProgressCallbacks
from medfl.runs.verdict import why_unmeasured

Curves = Mapping[str, Mapping[str, Any]]


def conclude(
    setup: RunSetup, folder: RunFolder, state: ServerState, watcher: ProgressCallbacks
) -> tuple[RunSummary, Curves]:
    """Measure what was trained, on test data, once: (summary.json without its timings, curves of each site).

    Raises:
        RunFailed: the model is not finite, no round could be selected, or no site could be measured.
    """
    if setup.pipeline.baseline == "local_only":
        watcher.say("Calibrating each site's own model, then measuring it on the test data of every site, once")
        return conclude_alone(setup, folder, state)
    selected = select_model(setup, state)
    watcher.say("Calibrating the selected model on validation data, then measuring it on test data, once")
    return conclude_global(setup, folder, selected, watcher)


def select_model(setup: RunSetup, state: ServerState) -> SelectedModel:
    """The last model, or the best by the selection metric. Raises RunFailed where no round has that metric."""
    if isinstance(setup.config.select, str):
        last = state.last_round(setup.config.rounds)
        return SelectedModel(last, state.weights, state.buffers, state.accepted, state.stain_reference)
    if state.best is None:
        raise RunFailed(
            f"`select` asks for the best {setup.config.select[0]}, which no training site has in any round: its "
            f"validation data lack patches or classes, or every measurement failed"
        )
    round_, _, weights, buffers = state.best
    return SelectedModel(round_, weights, buffers, state.accepted, state.stain_reference)


def conclude_global(
    setup: RunSetup, folder: RunFolder, selected: SelectedModel, watcher: ProgressCallbacks | None = None
) -> tuple[RunSummary, Curves]:
    """Calibrate and save the selected model, then measure it, and adapted where the pipeline says so: (summary.json,
    curves of each site)."""
    if not (is_finite(selected.weights) and is_finite(selected.buffers)):
        raise RunFailed(f"the model of round {selected.round} is not finite; lower `training.optimizer.lr`")
    tuned = tune(setup, selected)
    facts = model_facts(setup, folder.path.name, tuned)
    mix = training_mix(setup.pipeline, setup.shared.chain, read_rows(folder.allocation_summary))
    facts["training_mix"] = list(mix)
    plan = plan_adaptation(setup, selected, tuned, mix, (watcher or ProgressCallbacks()).say)
    if plan is not None:
        facts["adaptation"] = plan.facts()
    if normalise := setup.pipeline.data.normalise:
        facts["normalise"] = {"method": normalise.method, "reference": list(selected.stain_reference)}
    folder.save_model(setup.shared.model, selected.weights, selected.buffers, facts)
    measured = measure_sites(setup, selected, tuned, setup.roles)
    _check_measured(setup, measured)
    if setup.pipeline.evaluation.monitoring:
        facts["monitoring"] = monitoring_facts(measured)
        folder.save_facts(facts)
    summary = summarise(setup, folder, selected.round, tuned, measured)
    if signature := feature_signature(setup, selected):
        summary["site_signature"] = signature
    if plan is not None:
        summary["adaptation"] = adapt_sites(setup, selected, tuned, plan, measured)
    return summary, measured.curves


def conclude_alone(setup: RunSetup, folder: RunFolder, state: ServerState) -> tuple[RunSummary, Curves]:
    """The same of the baseline `local_only`: each site's own model, calibrated on that site's validation data, measured
    at home with all that belongs to it and elsewhere without intervals."""
    rounds = state.last_round(setup.config.rounds)
    names = [name for name in sorted(setup.config.train_sites) if has_own_model(state, name)]
    rows: dict[str, dict[str, SiteResult]] = {}
    temperatures: dict[str, float | None] = {}
    calibrations: dict[str, dict[str, Any]] = {}
    home = Measured()
    failures: list[FailureRecord] = [
        {"site": name, "reason": "it has trained in no round, so it has no model of its own"}
        for name in sorted(setup.config.train_sites)
        if name not in names
    ]
    for name in names:
        own = SelectedModel(rounds, *own_model(state, name), state.accepted, state.stain_reference)
        tuned = calibrate(setup, own, [name])
        temperatures[name] = tuned.temperature
        if tuned.fit is not None and "scale" in tuned.fit:
            calibrations[name] = tuned.fit
        here = measure_sites(setup, own, tuned, [name])
        elsewhere = measure_sites(setup, own, tuned, [n for n in setup.roles if n != name], resamples=0)
        home.sites.update(here.sites)
        home.curves.update(here.curves)
        rows[name] = here.sites | elsewhere.sites
        failures += [*tuned.failures, *here.failures, *elsewhere.failures]
    _check_measured(setup, replace(home, failures=failures))
    matrix = {a: {b: entry["auroc"] for b, entry in sorted(row.items())} for a, row in rows.items()}
    summary = summarise(setup, folder, rounds, Tuning(), replace(home, failures=failures))
    summary |= {"held_out": held_out_figures(rows), "cross_site_auroc": matrix, "temperatures": temperatures}
    if calibrations:
        summary["calibrations"] = calibrations
    return summary, home.curves


def _check_measured(setup: RunSetup, measured: Measured) -> None:
    """Raise RunFailed where no site has figures on test data."""
    if not measured.sites:
        raise RunFailed(f"{why_unmeasured(setup.roles, (), measured.failures)}; the run has failed")
