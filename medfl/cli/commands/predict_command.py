"""`medfl predict`: probabilities for a folder that nobody labelled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from medfl.cli.commands.common import Adapt, ModelRef, remedy_of
from medfl.errors import MedflError
from medfl.plain_text import visible

if TYPE_CHECKING:
    from medfl.config import Adapt as Adaptation
    from medfl.pipeline.trained_model import TrainedModel

Rows = list[tuple[str, list[float]]]


def predict(
    model: ModelRef,
    directory: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="A folder of unlabelled images, of slides, or of features where the model reads them."
        ),
    ],
    out: Annotated[str | None, typer.Option(help="CSV file; default: standard output.")] = None,
    attention: Annotated[
        str | None, typer.Option(metavar="DIR", help="Also write here how much each tile of a slide counted.")
    ] = None,
    heatmaps: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Also write here each slide's tiles with their scores: GeoJSON and a picture."
        ),
    ] = None,
    adapt: Adapt = None,
    site: Annotated[
        str | None, typer.Option(metavar="SITE", help="With --adapt: a site file whose `class_mix` counts.")
    ] = None,
    patients: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE", help="With --out: a table file,patient (or slide,patient); patients are scored beside it."
        ),
    ] = None,
) -> None:
    """Class probabilities for every image of a folder, or for every slide of a folder of slides or of features."""
    from medfl.cli.standard_streams import write_data
    from medfl.pipeline.predict_patients import read_owners, score_units
    from medfl.pipeline.trained_model import find_model

    remedy, trained = remedy_of(adapt), find_model(model)
    if patients and not out:
        raise MedflError("--patients writes further tables beside that of --out; state --out")
    if remedy and (attention or heatmaps):
        raise MedflError("--attention and --heatmaps show a model as it is; leave --adapt out")
    owners = read_owners(Path(patients)) if patients else None
    if site and not remedy:
        raise MedflError("--site states a class mix, which only --adapt uses; add --adapt class_mix, or leave it out")
    scored = _adapted(trained, directory, remedy, site) if remedy else _scored(trained, directory, attention, heatmaps)
    rows = scored.rows
    head = [scored.what, *(f"p_{name}" for name in trained.facts["classes"])]
    text = _csv_text([head, *([name, *(f"{p:.6f}" for p in probabilities)] for name, probabilities in rows)])
    if out:
        _write_out(Path(out), text)
        for key, lines in (score_units(rows, owners, trained.facts, scored.tiles) if owners else {}).items():
            _write_out(Path(out).with_suffix(f".{key}.csv"), _csv_text(lines))
    else:
        write_data(text)
    if scored.damaged:
        raise MedflError(f"{directory}: {len(scored.damaged)} slides cannot be read: {'; '.join(scored.damaged)}")


class _Scored(NamedTuple):
    """What a row is, the rows, the probabilities of slides' tiles where patients are scored by these, and slides that
    cannot be read."""

    what: str
    rows: Rows
    tiles: Mapping[str, Any] | None = None
    damaged: Sequence[str] = ()


def _adapted(trained: TrainedModel, directory: str, remedy: Adaptation, site: str | None) -> _Scored:
    """The rows of the model once it was adapted to this folder. Raises MedflError."""
    from medfl.cli.standard_streams import complain
    from medfl.pipeline.load_pipeline import load_site
    from medfl.pipeline.predict_adapted import predict_adapted
    from medfl.pipeline.predict_slides import holds_slides

    if not trained.reads_bags and holds_slides(trained, Path(directory)):
        raise MedflError(
            f"--adapt adapts a model to a folder of patches, and {directory} holds slides; leave it out, or measure "
            f"what it does at a site with `medfl evaluate RUN --sites SITE --adapt {remedy.name}`"
        )
    rows, said = predict_adapted(trained, Path(directory), remedy, load_site(site) if site else None)
    complain("; ".join(said))
    return _Scored("file", rows)


def _scored(trained: TrainedModel, directory: str, attention: str | None, heatmaps: str | None) -> _Scored:
    """The rows of the model as it is. Raises MedflError."""
    from medfl.cli.standard_streams import complain
    from medfl.pipeline.evaluate_model import predict as score
    from medfl.pipeline.predict_slides import holds_slides, predict_slides
    from medfl.pipeline.slide_gallery import PAGE

    weighed = Path(attention) if attention else None
    if holds_slides(trained, Path(directory)):
        result = predict_slides(trained, Path(directory), weighed, Path(heatmaps) if heatmaps else None)
        if heatmaps and result.rows:
            complain(f"Heat maps (they stay on this machine): {Path(heatmaps) / PAGE}")
        return _Scored("slide", result.rows, result.tiles or None, result.damaged)
    if heatmaps:
        raise MedflError("--heatmaps is for a folder of slides and a model that was trained on slides; leave it out")
    return _Scored("slide" if trained.reads_bags else "file", score(trained, Path(directory), attention=weighed))


def _csv_text(lines: Iterable[Sequence[str]]) -> str:
    """Lines as a CSV that a spreadsheet takes for no formulas."""
    import io

    from medfl.data.table_cells import NeutralWriter

    table = io.StringIO()
    NeutralWriter(table, lineterminator="\n").writerows(lines)
    return visible(table.getvalue(), lines=True)


def _write_out(path: Path, text: str) -> None:
    from medfl.data.atomic_file import write_text

    try:
        write_text(path, text, private=True)
    except OSError as error:
        raise MedflError(f"--out {path} cannot be written: {error.strerror}") from None
