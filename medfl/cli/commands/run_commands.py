"""Commands about one run: train, go on, measure, register, track."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.cli.commands.common import (
    Adapt,
    ModelRef,
    PipelineFile,
    RunPath,
    Set,
    about,
    launcher,
    open_terminal,
    remedy_of,
)
from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.cli.terminal import Terminal
    from medfl.config import Pipeline
    from medfl.pipeline.run import Outcome


class Engine(StrEnum):
    """Where the sites of a run live."""

    here = "in-process"
    nvflare = "nvflare"


RESUME = "every finished round is kept. Continue with `medfl resume RUN`"


def run(
    pipeline: PipelineFile,
    set_: Set = None,
    out: Annotated[str | None, typer.Option(help="Run folder; default runs/<name>-<time>.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print sites, steps, bytes and memory; train nothing.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="Where sites live: in this process, or each in its own (NVIDIA FLARE's simulator).")
    ] = Engine.here,
) -> None:
    """Train a pipeline across its sites, measure the result everywhere, and register it if the pipeline says so."""
    from medfl.pipeline.load_pipeline import load_pipeline

    loaded = load_pipeline(pipeline, set_ or [])
    with open_terminal(RESUME) as terminal, about(pipeline):
        from medfl.pipeline.prepare import prepare
        from medfl.pipeline.run import run as carry_out
        from medfl.runs.progress import ProgressCallbacks

        if dry_run:
            from medfl.cli.dry_run import print_plan

            print_plan(prepare(loaded, ProgressCallbacks(terminal.say)), terminal)
            return
        terminal.say(f"{loaded.name}: {len(loaded.train_sites)} training sites, {len(loaded.held_out_sites)} held out")
        watcher = ProgressCallbacks(terminal.say, terminal.round)
        if engine is Engine.nvflare:
            outcome = launcher().run(loaded, "simulator", out, watcher)
        else:
            outcome = carry_out(loaded, out, watcher)
        finish(outcome, loaded, terminal)


def resume(
    run: RunPath,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How many rounds there are to be now, also of a finished run.")
    ] = None,
) -> None:
    """Continue an interrupted run from its last whole round, or a finished one to further rounds."""
    from medfl.pipeline.load_pipeline import load_pipeline

    with open_terminal(RESUME) as terminal:
        from medfl.pipeline.run import resume as carry_on
        from medfl.runs.folder import RunFolder
        from medfl.runs.progress import ProgressCallbacks

        watcher = ProgressCallbacks(terminal.say, terminal.round)
        if RunFolder.open(run).engine.is_file():
            if rounds is not None:
                raise MedflError(
                    f"--rounds: the sites of {run} keep their own copy of the plan; begin a new run with "
                    f"`model.weights` naming its model"
                )
            outcome = launcher().resume(run, watcher)
        else:
            outcome = carry_on(run, watcher, rounds=rounds)
        finish(outcome, load_pipeline(outcome.folder.pipeline), terminal)


def evaluate(
    model: ModelRef,
    sites: Annotated[
        list[str] | None, typer.Option("--sites", help="Site files; default: the run's held-out sites.")
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="SITE", help="Further files after --sites.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Pipeline file, where the run is not on this machine.")] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Also write the figures here.")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option(metavar="DIR", help="Also write each site's scores here; they stay on this machine.")
    ] = None,
    adapt: Adapt = None,
) -> None:
    """Measure a model at sites: AUROC with intervals, calibration, confusion matrix."""
    from medfl.cli.console_tables import (
        patch_heading,
        print_adapted,
        print_confusion,
        print_operating_points,
        print_sites,
        print_units,
    )
    from medfl.data.atomic_file import write_text
    from medfl.pipeline.evaluate_model import evaluate as measure
    from medfl.pipeline.trained_model import find_model

    with open_terminal() as terminal:
        from medfl.runs.headline import headline
        from medfl.tracking.log_evaluation import log_evaluation

        remedy, trained = remedy_of(adapt), find_model(model)
        files, folder = [*(sites or []), *(more or [])], Path(predictions) if predictions else None
        result = measure(trained, files, pipeline, folder, remedy)
        if json_file:
            try:
                write_text(Path(json_file), json.dumps(result, indent=2, allow_nan=False) + "\n")
            except OSError as error:
                raise MedflError(f"--json {json_file} cannot be written: {error.strerror}") from None
        tracking = log_evaluation(result, trained.run_id, trained.run.path if trained.run else None)
        print_sites(terminal, result["sites"], f"{result['run']}: test data", patch_heading(result))
        print_operating_points(terminal, result)
        print_units(terminal, result)
        if remedy:
            print_adapted(terminal, result)
        for name in sorted(result["sites"]):
            print_confusion(terminal, name, result["sites"][name]["confusion"], trained.facts["classes"])
        terminal.say(headline(result).sentence)
        if json_file:
            terminal.say(f"Figures: {json_file}")
        if predictions:
            terminal.say(f"Scores (they stay on this machine): {predictions}")
        terminal.say(tracking)


def export(
    model: ModelRef,
    form: Annotated[str, typer.Option("--format", help="monai-bundle or onnx.")],
    out: Annotated[str, typer.Option(metavar="PATH", help="A new folder; for onnx also a file named *.onnx.")],
) -> None:
    """Write a model for programs without medfl: a MONAI Bundle, or an ONNX file."""
    from medfl.export.write_export import export as write

    with open_terminal() as terminal:
        for line in write(model, form, Path(out)):
            terminal.say(line)


def register(
    run: RunPath,
    name: Annotated[str, typer.Option(help="Name in the MLflow model registry.")],
    alias: Annotated[str | None, typer.Option(help="Alias to point at this version, e.g. champion.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Move the alias even to a worse model; this is recorded.")
    ] = False,
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="Measure the figures that gates and alias depend on anew.")
    ] = False,
    gates: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=BOUND|FILE",
            help="A gate beside those of the pipeline, e.g. held_out_auroc_min=0.9, or a YAML file of such keys.",
        ),
    ] = None,
) -> None:
    """Put a finished run's model into the MLflow registry, behind the gates its pipeline and --gates state."""
    from medfl.pipeline.register_run import register_run

    with open_terminal() as terminal:
        terminal.say(register_run(run, name=name, alias=alias, force=force, remeasure=remeasure, gates=gates or ()))


def track(run: RunPath) -> None:
    """Upload a run folder to MLflow: what is there already stays as it is."""
    from medfl.pipeline.load_pipeline import load_pipeline
    from medfl.report.run_report import report_html
    from medfl.runs.digests import reading
    from medfl.runs.folder import RunFolder
    from medfl.tracking.sync import sync

    folder = RunFolder.open(run)
    finished = folder.summary.is_file()
    page = report_html(folder.path) if finished else ""
    with reading(folder.path):
        result = sync(folder.path, load_pipeline(folder.pipeline).tracking, finished=finished, report=page)
    with open_terminal() as terminal:
        terminal.say(str(result))


def finish(outcome: Outcome, pipeline: Pipeline, terminal: Terminal) -> None:
    """The end of a run: the registry if the pipeline names one; then the table, where things are, what to do next."""
    from medfl.cli.console_tables import print_outcome

    registered: tuple[str, ...] = ()
    try:
        if pipeline.registry is not None:
            from medfl.pipeline.register_run import register_run

            name, alias = pipeline.registry.name, pipeline.registry.alias
            registered = (register_run(outcome.folder.path, name=name, alias=alias),)
    finally:  # where a gate refuses the model, its sentence comes last
        print_outcome(terminal, outcome.summary, str(outcome.folder.path), outcome.tracking, pipeline)
    terminal.say(*registered)
    if outcome.folder.model.is_file():
        terminal.say(f"Next: medfl evaluate {outcome.folder.path} --predictions scores")
