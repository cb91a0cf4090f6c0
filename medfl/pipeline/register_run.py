"""A finished run's model into the registry: the gates of its pipeline, and the alias's holder on the same sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medfl import config
from medfl.config.pipeline_config import Registry
from medfl.config.program_parts import ProgramParts
from medfl.data.partition import make_partition
from medfl.errors import MedflError
from medfl.metrics.group_figures import group_figures
from medfl.pipeline.adapt_sites import adaptation_facts
from medfl.pipeline.evaluate_model import measure_model, sites_to_measure
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.malignancy import malignant_classes
from medfl.pipeline.summary import pooled_figures
from medfl.pipeline.trained_model import TrainedModel
from medfl.runs.data_record import check_data
from medfl.runs.digests import check_files, reading
from medfl.runs.folder import RunFolder
from medfl.runs.gates import bounds, gates_text, read_gates, stricter
from medfl.runs.model_facts import read_model_facts
from medfl.runs.records import read_json
from medfl.runs.registration import note_registration
from medfl.tracking.log_model import portable
from medfl.tracking.model_registry import register

WAIT = 60.0  # seconds in which another registration of the run may finish


def register_run(
    path: str | Path,
    *,
    name: str,
    alias: str | None = None,
    force: bool = False,
    remeasure: bool = False,
    parts: ProgramParts | None = None,
    gates: Sequence[str] = (),
) -> str:
    """Register a run's model; returns one line for people. A run is registered once, however often this is called.

    Args:
        path: a finished run folder.
        name, alias: of the registered model.
        force: move the alias even to a worse model.
        remeasure: let the gates and the alias guard read figures that are measured now, and not those on file.
        parts: what a program handed to the run.
        gates: further ones, `key=bound` or files of such keys; they add to those of the run's pipeline and loosen none.

    Raises:
        GateFailed: a gate, or the present holder of the alias is better; the registry is untouched.
        MedflError: no such run, not finished, no MLflow; the run's files do not agree with each other.
    """
    folder = RunFolder.open(path)
    given = read_gates(gates)
    pipeline = load_pipeline(folder.pipeline).with_parts(parts or ProgramParts())
    settings = pipeline.registry or Registry(name=name)
    if folder.summary.is_file() and not folder.model_json.is_file():
        raise MedflError(f"{path} trained one model a site, so there is no global model to register")
    if folder.model_json.is_file():
        portable(read_model_facts(folder.model_json), folder.model_json)

    def evaluate_holder(directory: Path) -> dict[str, float | None]:
        """The holder's AUROC at this run's held-out sites."""
        holder = TrainedModel(directory, read_model_facts(directory / "model.json"), None)
        measured = measure_model(holder, sites_to_measure(holder, (), pipeline), resamples=0)
        return {site: entry["auroc"] for site, entry in measured.sites.items()}

    asked = stricter(settings.gates, given)
    decides = alias is not None or bool(bounds(asked))
    with folder.holding("register", WAIT):
        measured = _figures(folder, pipeline, decides, remeasure) if folder.summary.is_file() else None
        with reading(folder.path):
            done = register(
                folder.path,
                name=name,
                alias=alias,
                gates=asked,
                margin=settings.margin,
                force=force,
                tracking=pipeline.tracking,
                evaluate_holder=evaluate_holder,
                measured=measured,
            )
        note_registration(folder.path, done.name, done.version, done.alias)
    what = f"Registered: {done.uri} (version {done.version}); {_gates(done.gates)}"
    return f"{what}; forced over: {done.forced}" if done.forced else what


def _gates(passed: Mapping[str, float]) -> str:
    if passed:
        return f"gates passed: {gates_text(passed)}"
    return "no gates stated, so nothing was asked of its figures (`registry.gates`, or `medfl register --gates`)"


def _figures(folder: RunFolder, pipeline: config.Pipeline, decides: bool, remeasure: bool) -> dict[str, Any] | None:
    """The parts of summary.json that are measured anew; None where those on file count, which then must be what the run
    wrote. Raises MedflError where they are not, or nothing says whether they are and something depends on it."""
    summary = read_json(folder.summary)
    has_digests = check_files(summary, folder.path, remeasured=remeasure)
    if remeasure:
        return measure_again(folder, pipeline)
    if not has_digests and decides:
        raise MedflError(
            f"{folder.summary} has no `digests` (medfl 0.1 wrote none), so nothing says that its figures are those of "
            f"its model; measure them anew with --remeasure"
        )
    return None


def measure_again(folder: RunFolder, pipeline: config.Pipeline) -> dict[str, Any]:
    """The figures of a run's model on the test data of all its sites: `sites`, `held_out`, `train_sites`, `pooled`
    and, where it adapts, `adaptation` as in summary.json.

    Raises:
        MedflError: the data are not those of the run, or not here.
    """
    partition = make_partition(pipeline)
    check_data(folder, partition, pipeline.cache_dir)
    sites = {site.name: site for site in pipeline.all_sites}
    model = TrainedModel(folder.path, read_model_facts(folder.model_json), folder)
    triples = [(pipeline, sites[share.site], share) for share in partition.sites]
    measured, adapt = measure_model(model, triples, adapt=pipeline.adapt), pipeline.adapt
    return {
        "sites": measured.sites,
        "held_out": group_figures(measured.sites, "held_out"),
        "train_sites": group_figures(measured.sites, "train"),
        "pooled": pooled_figures(
            measured.sites, measured.sums, pipeline.task.classes, malignant_classes(pipeline.task)
        ),
        **({"adaptation": adaptation_facts(model.facts, adapt, measured.sites)} if adapt else {}),
    }
