"""A folder of slides, scored by a model that was trained on slides: a row a slide, tiles to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medfl import config
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_collection import SlideCollection
from medfl.data.slides.slide_folder import list_slides
from medfl.data.slides.slide_reader import Slide
from medfl.data.slides.tile_scores import Scores, write_geojson, write_picture
from medfl.data.slides.tissue_tiles import TissueTiles, tissue_tiles
from medfl.errors import MedflError
from medfl.pipeline.site_slides import site_slides
from medfl.pipeline.slide_gallery import ScoredSlide, slide_figure, write_slide_page
from medfl.pipeline.slide_scores import write_attention
from medfl.pipeline.slide_verdicts import Probs, Verdict, slide_scorer
from medfl.pipeline.trained_model import TrainedModel
from medfl.report.html_blocks import PatchPicture


@dataclass
class SlidePredictions:
    """What a model says of slides.

    Attributes:
        rows: (slide, probability of each class).
        tiles: slide -> probabilities f64[n, C] of its tiles, of which a patch classifier makes a patient's.
        damaged: slides that cannot be read, with the reason.
    """

    rows: list[tuple[str, list[float]]] = field(default_factory=list)
    tiles: dict[str, Probs] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def holds_slides(model: TrainedModel, directory: Path) -> bool:
    """Whether a model was trained on slides and a folder holds some. Raises MedflError as `list_slides`."""
    return "tile" in model.facts and directory.is_dir() and bool(list_slides(directory, str(directory)))


def predict_slides(
    model: TrainedModel, directory: Path, attention: Path | None = None, heatmaps: Path | None = None
) -> SlidePredictions:
    """Score every slide below a folder: by the model over bags, or by the mean over its tiles.

    Args:
        model: one that was trained on slides.
        directory: the folder; `mpp` of its `slides.csv` counts.
        attention: where a table `<slide>.csv` of x, y and attention is written for each slide.
        heatmaps: where `<slide>.geojson`, its tiles with their scores, and `<slide>.png` are written for each slide,
            and a page `index.html` of all.

    Raises:
        MedflError: weights of the encoder that are not here, a folder that cannot be written.
    """
    facts = model.facts
    data = {"source": "slides", "size": facts["size"], "mpp": facts["mpp"], "tile": facts["tile"]}
    collection = site_slides(str(directory), config.Data.model_validate(data))
    if attention is not None and not model.reads_bags:
        raise MedflError("--attention is for models over bags of features (`model.mil`), and this one sees images")
    score = slide_scorer(model, collection)
    predictions, figures = SlidePredictions(), list[tuple[float, PatchPicture]]()
    for slide in collection.slides.values():
        try:
            tiles = tissue_tiles(collection, slide)
            verdict = score(tiles)
            if heatmaps is not None:
                figures.append(_show(model, collection, tiles, verdict, heatmaps))
        except Unreadable as error:
            predictions.damaged.append(f"{slide.name} ({error})")
            continue
        except OSError as error:
            raise MedflError(f"{error.filename or heatmaps}: {error.strerror or error}") from None
        predictions.rows.append((slide.name, verdict.slide.tolist()))
        if not model.reads_bags:
            predictions.tiles[slide.name] = verdict.tiles
        if attention is not None and verdict.attention is not None:
            write_attention(attention, slide.stem, np.stack([tiles.x, tiles.y], axis=1), verdict.attention)
    if heatmaps is not None and figures:
        suspicious_first = sorted(figures, key=lambda figure: -figure[0])
        try:
            write_slide_page(heatmaps, facts, model.reads_bags, [figure for _, figure in suspicious_first])
        except OSError as error:
            raise MedflError(f"{error.filename or heatmaps}: {error.strerror or error}") from None
    return predictions


def _show(
    model: TrainedModel, collection: SlideCollection, tiles: TissueTiles, verdict: Verdict, heatmaps: Path
) -> tuple[float, PatchPicture]:
    """Write a slide's GeoJSON and picture; how suspicious it is, and what the page of all shows of it. Raises OSError,
    Unreadable."""
    classes = list(model.facts["classes"])
    scores: dict[str, Scores] = {f"p_{name}": verdict.tiles[:, index] for index, name in enumerate(classes)}
    if verdict.attention is not None:
        scores["attention"] = verdict.attention
    slide = Slide(collection.folder / tiles.slide.files[0])
    place = heatmaps / Path(tiles.slide.name).parent / tiles.slide.stem
    place.parent.mkdir(parents=True, exist_ok=True)
    write_geojson(place.with_name(f"{place.name}.geojson"), tiles, slide.origin, classes, scores)
    picture = verdict.heat_map(model.facts, slide, tiles)
    write_picture(place.with_name(f"{place.name}.png"), picture)
    malignant = [classes.index(name) for name in model.facts.get("malignant") or ()]
    scored = ScoredSlide(tiles.slide.name, picture, verdict.slide, collection.facts(tiles.slide).label)
    return float(verdict.slide[malignant].sum()), slide_figure(scored, classes)
