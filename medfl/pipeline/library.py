"""What a program calls: a pipeline carried out, gone on with, measured. The command line does the same.

A pipeline is a file or a mapping of the same keys. What no file can hold (patches in memory, an `nn.Module`, a loss)
is handed over beside it and needed again wherever the run is gone on with or measured.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medfl import config
from medfl.config.program_parts import PROGRAM, ProgramParts, program_name
from medfl.config.yaml_file import validate
from medfl.data.sources.program_patches import SitePatches
from medfl.errors import GateFailed, MedflError, nearest
from medfl.federation.selection import selection_value
from medfl.metrics.record_types import RunSummary
from medfl.pipeline.classifier import LoadedModel, with_network
from medfl.pipeline.evaluate_model import evaluate as measure
from medfl.pipeline.evaluate_model import pipeline_of, sites_to_measure
from medfl.pipeline.load_pipeline import load_pipeline, load_site, plain_mapping
from medfl.pipeline.register_run import register_run
from medfl.pipeline.run import resume as carry_on
from medfl.pipeline.run import run as carry_out
from medfl.pipeline.run_result import EvaluationResult, RunResult
from medfl.pipeline.trained_model import find_model
from medfl.runs.folder import RunFolder
from medfl.runs.progress import ProgressCallbacks

log = logging.getLogger("medfl")
PipelineLike = Path | str | Mapping[str, Any]
Say = Callable[[str], None]


def run(
    pipeline: PipelineLike,
    *,
    out: Path | str | None = None,
    patches: Mapping[str, SitePatches] | None = None,
    network: Any = None,
    loss: Any = None,
    say: Say | None = None,
    **overrides: Any,
) -> RunResult:
    """Train a pipeline across its sites, measure the result everywhere, register it if the pipeline says so.

    Args:
        pipeline: a pipeline file, or a mapping with its keys (docs/configuration.md); relative paths in a mapping are
            relative to the working directory.
        out: the run folder; by default `runs/<name>-<time>`.
        patches: site of the pipeline -> its patches in memory, in place of files.
        network: an `nn.Module` that takes images f32[N, 3, S, S] and gives logits f32[N, C], in place of
            `model.backbone`. A copy is trained, from the values it has. `model.input` has to state mean and deviation.
        loss: a function of logits f32[N, C] and labels i64[N] that gives a mean loss f32[], in place of cross entropy.
        say: called with each line of progress; by default they go to the logger `medfl`.
        **overrides: keys of the pipeline, `__` for a dot: `training__rounds=3`, `seed=8`, `registry=None`; or
            `**{"training.rounds": 3}`.

    Returns:
        The finished run.

    Raises:
        MedflError: bad input, before training.
        RunFailed: no result that counts; what was computed is in the folder.
        GateFailed: the registry refuses the model; the run is complete.
    """
    parts = ProgramParts(dict(patches or {}), network, loss)
    loaded = _with_parts(load_pipeline(pipeline, _settings(overrides, parts)), parts)
    if network is not None and loaded.registry is not None:
        raise MedflError(
            "`registry`: a network that a program hands over cannot be rebuilt where the model is served; leave the "
            "section out (registry=None), or give the network a name of timm's (`timm.models.register_model`)"
        )
    return _finished(carry_out(loaded, out, _watcher(say)).folder, loaded)


def resume(
    run: Path | str,
    *,
    patches: Mapping[str, SitePatches] | None = None,
    network: Any = None,
    loss: Any = None,
    say: Say | None = None,
) -> RunResult:
    """Go on with an interrupted run from its last whole round, bit for bit.

    Args:
        run: the run folder.
        patches: those that the program handed to `medfl.run`, again.
        network: likewise.
        loss: likewise.
        say: as in `medfl.run`.

    Raises:
        MedflError: as `medfl.run`; the files, data or network are not those that the run began with.
    """
    parts = ProgramParts(dict(patches or {}), network, loss)
    outcome = carry_on(run, _watcher(say), parts)
    return _finished(outcome.folder, load_pipeline(outcome.folder.pipeline).with_parts(parts))


def evaluate(
    model: RunResult | LoadedModel | Path | str,
    sites: Iterable[Path | str | Mapping[str, Any]] | None = None,
    *,
    pipeline: PipelineLike | None = None,
    patches: Mapping[str, SitePatches] | None = None,
    network: Any = None,
    predictions: Path | str | None = None,
) -> EvaluationResult:
    """Measure a model at sites, as at the end of its run: intervals, calibration, confusion matrix.

    Args:
        model: a result of `medfl.run`, a loaded model, or a reference as `medfl.load_model` takes it.
        sites: site files, mappings with their keys, or names of sites of the run; by default those in `patches`, else
            the run's held-out sites. A site of the run is measured on its test split, any other on all its data.
        pipeline: how sites are dealt and rendered, where the run is not on this machine.
        patches: site -> its patches in memory.
        network: as in `medfl.load_model`.
        predictions: a folder for `<site>.csv`, one row a patch; it stays on this machine.

    Raises:
        MedflError: no such model, other classes, a site without data.
    """
    given = dict(patches or {})
    if isinstance(model, RunResult):
        given, network = {**model.parts.patches, **given}, network or model.parts.network
        model = model.folder
    trained = model.trained if isinstance(model, LoadedModel) else with_network(find_model(str(model)), network)
    plan = pipeline_of(trained, pipeline, "`pipeline`")
    plan = _at_known_sites(plan.with_parts(ProgramParts(given, network)))
    planned = {site.name: site for site in plan.all_sites}
    wanted = list(sites) if sites is not None else list(patches or [])
    named = [_site(entry, planned, given) for entry in wanted]
    sites_to_measure(trained, named, plan)  # says what is missing before the first site is measured
    return EvaluationResult(measure(trained, named, plan, Path(predictions) if predictions else None))


def register(
    run: RunResult | Path | str,
    name: str,
    *,
    alias: str | None = None,
    checks: Iterable[Callable[[RunSummary], str | None]] = (),
    force: bool = False,
) -> str:
    """Put a finished run's model into the MLflow registry, behind the gates of its pipeline and rules of one's own.

    Args:
        run: a result of `medfl.run`, or its folder.
        name: of the registered model.
        alias: to point at the new version, `champion` say; it does not move to a worse model.
        checks: functions of summary.json that say in a sentence why the model is not to be registered; None or "" lets
            it pass.
        force: move the alias even to a worse model, which the version then says.

    Returns:
        One sentence: what was registered, and as which version.

    Raises:
        GateFailed: a gate, a check or the alias's holder speaks against it; the registry is as it was.
        MedflError: no such run, a model that cannot be served, no MLflow.
    """
    result = run if isinstance(run, RunResult) else RunResult(run)
    summary = result.summary
    for check in checks:
        if reason := check(summary):
            raise GateFailed(f"{getattr(check, '__name__', 'a check')}: {reason}; the registry is as it was")
    return register_run(result.folder, name=name, alias=alias, force=force, parts=result.parts)


def _settings(overrides: Mapping[str, Any], parts: ProgramParts) -> list[str]:
    """Overrides as `load_pipeline` takes them."""
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    if parts.network is not None:
        keys["model.backbone"] = program_name(parts.network)
    if parts.loss is not None:
        if not callable(parts.loss):
            raise MedflError("`loss` is no function of logits and labels")
        keys["training.loss"] = program_name(parts.loss)
    return [f"{key}={json.dumps(value)}" for key, value in plain_mapping(keys, "set of overrides").items()]


def _with_parts(pipeline: config.Pipeline, parts: ProgramParts) -> config.Pipeline:
    """The pipeline with what a program hands over. Raises MedflError for patches of a site it does not list."""
    sites = [site.name for site in pipeline.all_sites]
    for name, own in parts.patches.items():
        if name not in sites:
            raise MedflError(
                f"`patches`: the pipeline lists no site {name!r}.{nearest(name, sites)} It lists: {', '.join(sites)}"
            )
        if not isinstance(own, SitePatches):
            raise MedflError(f"`patches`: those of {name} are a {type(own).__name__}; give medfl.SitePatches(...)")
    return _at_known_sites(pipeline.with_parts(parts))


def _at_known_sites(pipeline: config.Pipeline) -> config.Pipeline:
    """The sites whose patches a program hands over say so."""

    def stated(sites: Sequence[config.SiteConfig]) -> list[config.SiteConfig]:
        own = config.OwnData(source=PROGRAM)
        given = pipeline.parts.patches
        return [site.model_copy(update={"data": own}) if site.name in given else site for site in sites]

    split = {"train": stated(pipeline.train_sites), "held_out": stated(pipeline.held_out_sites)}
    return pipeline.model_copy(update={"sites": pipeline.sites.model_copy(update=split)})


def _site(
    entry: Path | str | Mapping[str, Any], sites: Mapping[str, config.SiteConfig], patches: Mapping[str, SitePatches]
) -> config.SiteConfig:
    """A site as the user names it."""
    if isinstance(entry, Mapping):
        site = validate(config.SiteConfig, plain_mapping(entry, "site"), Path("site"))
    elif str(entry) in sites:
        return sites[str(entry)]
    elif str(entry) in patches:
        site = config.SiteConfig(name=str(entry))
    else:
        return load_site(entry)
    return site.model_copy(update={"data": config.OwnData(source=PROGRAM)}) if site.name in patches else site


def _finished(folder: RunFolder, pipeline: config.Pipeline) -> RunResult:
    """A run at its end, registered where its pipeline says so."""
    registered, registry = "", pipeline.registry
    if registry is not None:
        try:
            registered = register_run(folder.path, name=registry.name, alias=registry.alias, parts=pipeline.parts)
        except GateFailed as error:
            raise GateFailed(f"{error}; the run itself is complete in {folder.path}") from None
    return RunResult(folder.path, pipeline.parts, registered)


def _watcher(say: Say | None) -> ProgressCallbacks:
    tell = say or _log

    def round_(record: Mapping[str, Any], rounds: int) -> None:
        auroc = selection_value("val_mean_auroc", record["sites"])
        measured = "" if auroc is None else f"  val AUROC {auroc:.3f}"
        tell(f"round {record['round']}/{rounds}{measured}")
        for failure in record["failures"]:
            tell(f"WARNING: round {record['round']}: site {failure['site']} failed: {failure['reason']}")

    return ProgressCallbacks(tell, round_)


def _log(line: str) -> None:
    log.log(logging.WARNING if line.startswith("WARNING: ") else logging.INFO, "%s", line.removeprefix("WARNING: "))
