"""The command line. Heavy imports live inside the commands, so that help is instant."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.config import Pipeline
    from medfl.console import Terminal
    from medfl.pipeline import Outcome

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for a newer version

app = typer.Typer(
    name="medfl",
    help="Federated training and honest evaluation of pathology models: no image leaves its site.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look into the data of a pipeline.", no_args_is_help=True, rich_markup_mode=None)
sites_app = typer.Typer(help="Look at sites.", no_args_is_help=True, rich_markup_mode=None)
init_app = typer.Typer(help="Write a starting file.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(sites_app, name="sites")
app.add_typer(init_app, name="init")

PipelineFile = Annotated[str, typer.Argument(metavar="PIPELINE", help="A pipeline file (YAML).")]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")]
ModelRef = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run folder, an MLflow run id, or models:/name@alias.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. training.rounds=3 or method=[ecgr]."),
]


def main() -> None:
    """Entry point: an error the user can mend is one sentence and an exit code, never a traceback."""
    try:
        app()
    except MedflError as error:
        print(f"medfl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.command()
def run(
    pipeline: PipelineFile,
    set_: Set = None,
    out: Annotated[str | None, typer.Option(help="Run folder; default runs/<name>-<time>.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print sites, steps, bytes and memory; train nothing.")
    ] = False,
) -> None:
    """Train a pipeline across its sites, measure the result everywhere, and register it if the pipeline says so."""
    from medfl.loading import load_pipeline

    loaded = load_pipeline(pipeline, set_ or [])
    with _terminal() as terminal, _about(pipeline):
        from medfl.pipeline import run as carry_out
        from medfl.prepare import Watcher, prepare

        if dry_run:
            from medfl.planning import print_plan

            print_plan(prepare(loaded, Watcher(terminal.say)), terminal)
            return
        terminal.say(f"{loaded.name}: {len(loaded.train_sites)} training sites, {len(loaded.held_out_sites)} held out")
        _finish(carry_out(loaded, out, Watcher(terminal.say, terminal.round)), loaded, terminal)


@app.command()
def resume(run: RunPath) -> None:
    """Continue an interrupted run from its last whole round."""
    from medfl.loading import load_pipeline

    with _terminal() as terminal:
        from medfl.pipeline import resume as carry_on
        from medfl.prepare import Watcher

        outcome = carry_on(run, Watcher(terminal.say, terminal.round))
        _finish(outcome, load_pipeline(outcome.folder.pipeline), terminal)


@app.command()
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
) -> None:
    """Measure a model at sites: AUROC with intervals, calibration, confusion matrix."""
    from medfl.evaluation import evaluate as measure
    from medfl.evaluation import find_model
    from medfl.runs import write_text

    with _terminal() as terminal:
        found = find_model(model)
        result = measure(found, [*(sites or []), *(more or [])], pipeline, Path(predictions) if predictions else None)
        terminal.sites(result["sites"], f"{result['run']}: test data")
        for name in sorted(result["sites"]):
            terminal.confusion(name, result["sites"][name]["confusion"], found.facts["classes"])
        if json_file:
            try:
                write_text(Path(json_file), json.dumps(result, indent=2, allow_nan=False) + "\n")
            except OSError as error:
                raise MedflError(f"--json {json_file} cannot be written: {error.strerror}") from None
            terminal.say(f"Figures: {json_file}")
        if predictions:
            terminal.say(f"Scores (they stay on this machine): {predictions}")
        from medfl.tracking.evaluations import log_evaluation

        terminal.say(log_evaluation(result, found.run_id, found.run.path if found.run else None))


@app.command()
def predict(
    model: ModelRef,
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A folder of unlabelled images.")],
    out: Annotated[str | None, typer.Option(help="CSV file; default: standard output.")] = None,
) -> None:
    """Class probabilities for every image of a folder."""
    import csv

    from medfl.evaluation import find_model
    from medfl.evaluation import predict as score

    found = find_model(model)
    rows = score(found, Path(directory))
    try:
        stream = open(out, "w", newline="", encoding="utf-8") if out else contextlib.nullcontext(sys.stdout)  # noqa: SIM115
        with stream as target:
            writer = csv.writer(target, lineterminator="\n")
            writer.writerow(["file", *(f"p_{name}" for name in found.facts["classes"])])
            writer.writerows([name, *(f"{p:.6f}" for p in probabilities)] for name, probabilities in rows)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise MedflError(f"--out {out} cannot be written: {error.strerror}") from None


@app.command()
def register(
    run: RunPath,
    name: Annotated[str, typer.Option(help="Name in the MLflow model registry.")],
    alias: Annotated[str | None, typer.Option(help="Alias to point at this version, e.g. champion.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Move the alias even to a worse model; this is recorded.")
    ] = False,
) -> None:
    """Put a finished run's model into the MLflow registry, behind the gates its pipeline states."""
    from medfl.registration import register_run

    with _terminal() as terminal:
        terminal.say(register_run(run, name=name, alias=alias, force=force))


@app.command()
def track(run: RunPath) -> None:
    """Upload a run folder to MLflow: what is there already stays as it is."""
    from medfl.loading import load_pipeline
    from medfl.runs import RunFolder
    from medfl.tracking.sync import sync

    folder = RunFolder.open(run)
    result = sync(folder.path, load_pipeline(folder.pipeline).tracking, finished=folder.summary.is_file())
    print(result)


@app.command()
def methods() -> None:
    """List the methods, with their parameters and what each may share a chain with."""
    from medfl.methods.listing import listing

    with _terminal() as terminal:
        columns = ["name", "parameters", "what it does", "goes with"]
        terminal.table("Methods; an empty chain is FedAvg", columns, listing())


@data_app.command("check")
def data_check(pipeline: PipelineFile, set_: Set = None) -> None:
    """Prove that no source group is in two places; print class mix, patches and groups per site and split."""
    from medfl.data.allocation import allocate
    from medfl.loading import load_pipeline

    with _terminal() as terminal, _about(pipeline):
        loaded = load_pipeline(pipeline, set_ or [])
        allocation = allocate(loaded)  # it proves disjointness, or raises
        terminal.allocation(allocation.summary(), loaded.task.classes)
        terminal.say(
            "Disjoint: every source group is in one site and one split only."
            if not allocation.leaky
            else "LEAKY: source groups are ignored, so near-copies of test patches may be in training."
        )


@sites_app.command("preview")
def sites_preview(
    pipeline: PipelineFile,
    set_: Set = None,
    out: Annotated[str, typer.Option(help="Picture to write.")] = "sites.png",
) -> None:
    """Write one picture: a row of patches per site, as the model will see them."""
    from medfl.data.allocation import allocate
    from medfl.data.preview import preview
    from medfl.data.store import render
    from medfl.loading import load_pipeline

    with _about(pipeline):
        loaded = load_pipeline(pipeline, set_ or [])
        by_name = {site.name: site for site in loaded.all_sites}
        stores = [render(loaded, by_name[share.site], share) for share in allocate(loaded).shares]
        preview(stores, Path(out), loaded)
    print(f"Picture: {out}")


@init_app.command("site")
def init_site(
    data: Annotated[str, typer.Option(help="The folder (or CSV file) to inspect.")],
    name: Annotated[str | None, typer.Option(help="Site name; default: the folder's.")] = None,
    out: Annotated[str | None, typer.Option(help="File to write; default: <name>.yaml.")] = None,
) -> None:
    """Inspect a folder of patches and write a valid site file for it."""
    from medfl.data.inspect import inspect_folder, site_yaml
    from medfl.runs import write_text

    site, notes = inspect_folder(Path(data), name)
    target = Path(out or f"{site['name'].replace('-', '_')}.yaml")
    if target.exists():
        raise MedflError(f"{target} exists already; name another file with --out")
    try:
        write_text(target, site_yaml(site, notes))
    except OSError as error:
        raise MedflError(f"{target} cannot be written: {error.strerror}") from None
    for note in notes:
        print(note)
    print(f"Site file: {target}")


@contextlib.contextmanager
def _about(file: str) -> Iterator[None]:
    """Errors about a pipeline name its file."""
    try:
        yield
    except MedflError as error:
        if file in str(error):
            raise
        raise type(error)(f"{file}: {error}") from None


@contextlib.contextmanager
def _terminal() -> Iterator[Terminal]:
    """The terminal, its progress bar removed whatever happens; an interrupt says how to go on."""
    from medfl.console import Terminal

    terminal = Terminal()
    try:
        yield terminal
    except KeyboardInterrupt:
        terminal.close()
        print("\nmedfl: interrupted; every finished round is kept. Continue with `medfl resume RUN`", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        terminal.close()


def _finish(outcome: Outcome, pipeline: Pipeline, terminal: Terminal) -> None:
    """The end of a run: the table, where things are, the registry if the pipeline names one, what to do next."""
    terminal.outcome(outcome.summary, str(outcome.folder.path), outcome.tracking)
    if pipeline.registry is not None:
        from medfl.registration import register_run

        terminal.say(register_run(outcome.folder.path, name=pipeline.registry.name, alias=pipeline.registry.alias))
    if outcome.folder.model.is_file():
        terminal.say(f"Next: medfl evaluate {outcome.folder.path} --predictions scores")
