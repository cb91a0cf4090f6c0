"""A folder of slides, scored by a model that was trained on slides: a row a slide, tiles to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medfl import config
from medfl.data.encode_bags import SlideFeatures
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_collection import SlideCollection
from medfl.data.slides.slide_folder import list_slides
from medfl.data.slides.slide_reader import Slide
from medfl.data.slides.tile_scores import Scores, draw_heat_map, write_geojson
from medfl.data.slides.tissue_tiles import TissueTiles, tile_pixels, tissue_tiles
from medfl.errors import MedflError
from medfl.model.bag_network import Bags
from medfl.pipeline.frozen_encoder import encoder_of
from medfl.pipeline.site_slides import plain_look, site_slides
from medfl.pipeline.slide_scores import score_bag, write_attention
from medfl.pipeline.trained_model import TrainedModel
from medfl.site.measurement import probabilities

TILES = 4096  # that are scored together, each alone


@dataclass
class SlidePredictions:
    """What a model says of slides: (slide, probability of each class), and the slides that cannot be read, with the
    reason."""

    rows: list[tuple[str, list[float]]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Verdict:
    """Of one slide: probabilities f64[C], those of each tile alone f64[n, C], attention f32[n] where there is any."""

    slide: NDArray[np.float64]
    tiles: NDArray[np.float64]
    attention: NDArray[np.float32] | None = None


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
        heatmaps: where `<slide>.geojson`, its tiles with their scores, and `<slide>.png` are written for each slide.

    Raises:
        MedflError: weights of the encoder that are not here, a folder that cannot be written.
    """
    facts = model.facts
    data = {"source": "slides", "size": facts["size"], "mpp": facts["mpp"], "tile": facts["tile"]}
    collection = site_slides(str(directory), config.Data.model_validate(data))
    if attention is not None and not model.reads_bags:
        raise MedflError("--attention is for models over bags of features (`model.mil`), and this one sees images")
    score = _by_bags(model, collection) if model.reads_bags else _by_patches(model, collection)
    predictions = SlidePredictions()
    for slide in collection.slides.values():
        try:
            tiles = tissue_tiles(collection, slide)
            verdict = score(tiles)
            if heatmaps is not None:
                _show(model, collection, tiles, verdict, heatmaps)
        except Unreadable as error:
            predictions.damaged.append(f"{slide.name} ({error})")
            continue
        except OSError as error:
            raise MedflError(f"{error.filename or heatmaps}: {error.strerror or error}") from None
        predictions.rows.append((slide.name, verdict.slide.tolist()))
        if attention is not None and verdict.attention is not None:
            write_attention(attention, slide.stem, np.stack([tiles.x, tiles.y], axis=1), verdict.attention)
    return predictions


def _by_bags(model: TrainedModel, collection: SlideCollection) -> Callable[[TissueTiles], _Verdict]:
    bench, look = model.ready(), plain_look(model.facts["size"])
    encoder = encoder_of(model.facts, str(model.directory / "model.json"))
    vectors = SlideFeatures(collection, look, encoder, collection.spec.cache)

    def score(tiles: TissueTiles) -> _Verdict:
        features = vectors.of(tiles)
        scores, attention = score_bag(bench, model.facts, features)
        alone = []
        with torch.inference_mode():
            for begin in range(0, len(features), TILES):
                part = torch.from_numpy(features[begin : begin + TILES]).to(bench.model.device)
                alone.append(bench.net(Bags(part, (1,) * len(part))).cpu().double())
        return _Verdict(scores, probabilities(torch.cat(alone), model.calibration), attention)

    return score


def _by_patches(model: TrainedModel, collection: SlideCollection) -> Callable[[TissueTiles], _Verdict]:
    from medfl.pipeline.evaluate_model import scores

    function = partial(scores, model, loaded=model.ready())
    look = plain_look(model.facts["size"])

    def score(tiles: TissueTiles) -> _Verdict:
        alone = np.concatenate([function(chunk) for chunk in tile_pixels(collection, tiles, look)])
        return _Verdict(alone.mean(axis=0), alone)

    return score


def _show(
    model: TrainedModel, collection: SlideCollection, tiles: TissueTiles, verdict: _Verdict, heatmaps: Path
) -> None:
    """Write a slide's GeoJSON and picture: attention where there is any, else what speaks for malignancy, or for the
    slide's likeliest class. Raises OSError, Unreadable."""
    classes = list(model.facts["classes"])
    scores: dict[str, Scores] = {f"p_{name}": verdict.tiles[:, index] for index, name in enumerate(classes)}
    if verdict.attention is not None:
        scores["attention"] = verdict.attention
    slide = Slide(collection.folder / tiles.slide.files[0])
    place = heatmaps / Path(tiles.slide.name).parent / tiles.slide.stem
    place.parent.mkdir(parents=True, exist_ok=True)
    write_geojson(place.with_name(f"{place.name}.geojson"), tiles, slide.origin, classes, scores)
    picture = place.with_name(f"{place.name}.png")
    if verdict.attention is not None:
        draw_heat_map(picture, slide, tiles, verdict.attention, None)
        return
    malignant = [classes.index(name) for name in model.facts.get("malignant") or ()] or [int(np.argmax(verdict.slide))]
    draw_heat_map(picture, slide, tiles, verdict.tiles[:, malignant].sum(axis=1))
