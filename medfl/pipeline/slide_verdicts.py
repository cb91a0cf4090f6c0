"""What a model that was trained on slides says of one slide and of each of its tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medfl.data.encode_bags import SlideFeatures
from medfl.data.patch_store import U8
from medfl.data.render import RenderSettings
from medfl.data.slides.slide_collection import SlideCollection
from medfl.data.slides.slide_reader import Slide
from medfl.data.slides.tile_scores import heat_map
from medfl.data.slides.tissue_tiles import TissueTiles, tile_pixels
from medfl.metrics.units import Units
from medfl.model.bag_network import Bags
from medfl.pipeline.frozen_encoder import encoder_of
from medfl.pipeline.site_slides import plain_look
from medfl.pipeline.slide_scores import Attention, score_bag
from medfl.pipeline.trained_model import TrainedModel
from medfl.runs.model_facts import unit_top
from medfl.site.measurement import probabilities
from medfl.site.shared_model import SharedModel

TILES = 4096  # that are scored together, each alone
Probs = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """Of one slide: probabilities f64[C], those of each tile alone f64[n, C], attention f32[n] where there is any."""

    slide: Probs
    tiles: Probs
    attention: Attention | None = None

    def heat_map(self, facts: Mapping[str, Any], slide: Slide, tiles: TissueTiles) -> U8:
        """The slide with its tiles coloured by attention where there is any, else by what speaks for malignancy, or for
        the slide's likeliest class, u8[h, w, 3]. Raises Unreadable."""
        if self.attention is not None:
            return heat_map(slide, tiles, self.attention, None)
        return heat_map(slide, tiles, self.tiles[:, shown_classes(facts, self.slide)].sum(axis=1))


Scorer = Callable[[TissueTiles], Verdict]


def shown_classes(facts: Mapping[str, Any], scores: Probs) -> list[int]:
    """Which classes a heat map of patches shows: the malignant ones, or without any the likeliest of the slide."""
    malignant = [list(facts["classes"]).index(name) for name in facts.get("malignant") or ()]
    return malignant or [int(np.argmax(scores))]


def slide_scorer(
    model: TrainedModel,
    collection: SlideCollection,
    bench: SharedModel | None = None,
    look: RenderSettings | None = None,
) -> Scorer:
    """What scores the slides of a collection: the model over bags, or the mean over what a patch classifier says of
    tiles, of those that look most malignant where `evaluation.patients` says so.

    Args:
        model: one that was trained on slides.
        collection: the slides.
        bench: the workbench with the weights that count in its network; None takes the model's.
        look: how tiles are rendered; None takes them as they are.

    Raises:
        MedflError: the encoder's weights are not here.
    """
    kind = _by_bags if model.reads_bags else _by_patches
    return kind(model, collection, bench or model.ready(), look or plain_look(model.facts["size"]))


def _by_bags(model: TrainedModel, collection: SlideCollection, bench: SharedModel, look: RenderSettings) -> Scorer:
    encoder = encoder_of(model.facts, str(model.directory / "model.json"))
    vectors = SlideFeatures(collection, look, encoder, collection.spec.cache)

    def score(tiles: TissueTiles) -> Verdict:
        features = vectors.of(tiles)
        scores, attention = score_bag(bench, model.facts, features)
        alone = []
        with torch.inference_mode():
            for begin in range(0, len(features), TILES):
                part = torch.from_numpy(features[begin : begin + TILES]).to(bench.model.device)
                alone.append(bench.net(Bags(part, (1,) * len(part))).cpu().double())
        return Verdict(scores, probabilities(torch.cat(alone), model.calibration), attention)

    return score


def _by_patches(model: TrainedModel, collection: SlideCollection, bench: SharedModel, look: RenderSettings) -> Scorer:
    from medfl.pipeline.evaluate_model import scores

    function = partial(scores, model, loaded=bench)

    def score(tiles: TissueTiles) -> Verdict:
        alone = np.concatenate([function(chunk) for chunk in tile_pixels(collection, tiles, look)])
        return Verdict(_whole(alone, model.facts), alone)

    return score


def _whole(alone: Probs, facts: Mapping[str, Any]) -> Probs:
    """The probabilities f64[C] of a slide, from those of its tiles f64[n, C]."""
    one, malignant = np.zeros(1, dtype=np.int64), tuple(facts.get("malignant") or ())
    every = np.zeros(len(alone), dtype=np.int64)
    top = unit_top(facts) if malignant else 0
    whole: Probs = Units(every, one, one, one, tuple(facts["classes"]), malignant, top).scores(alone)[0]
    return whole
