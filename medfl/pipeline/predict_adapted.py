"""A folder of unlabelled patches of one laboratory, scored by a model that is adapted by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medfl import config
from medfl.data.batches import AugmentSpec, Batches
from medfl.data.patch_store import PatchStore
from medfl.data.render import read_patches
from medfl.errors import MedflError
from medfl.metrics.remedies import left_out, name_of, steps_of
from medfl.pipeline.adapt_model import OPTION, adapt_request, check_sees_images
from medfl.pipeline.trained_model import TrainedModel
from medfl.site.adaptation import LEAST_PATCHES, Adapter
from medfl.site.measurement import probabilities


def predict_adapted(
    model: TrainedModel, directory: Path, adapt: config.Adapt, site: config.SiteConfig | None, batch_size: int = 64
) -> tuple[list[tuple[str, list[float]]], list[str]]:
    """Calibrated class probabilities for every image under a folder, in sorted order, of the model adapted by as many
    of them as `adapt.patches` says: [(relative name, p per class)], and what was done and left out, in sentences.

    Args:
        site: whose `class_mix` counts; None where nothing states one.

    Raises:
        MedflError: no folder, no images, an unreadable image, fewer than can be adapted on; a class that the model does
            not have; as `adapt_request`.
    """
    check_sees_images(model.reads_bags)
    names, patches = read_patches(directory, model.facts["size"])
    if len(names) < LEAST_PATCHES:
        raise MedflError(f"{OPTION}: {directory} holds {len(names)} patches, and adapting takes {LEAST_PATCHES}")
    mix = site.stated_mix(model.facts["classes"]) if site else None
    bench, weights, buffers = model.load()
    request = adapt_request(model.facts, adapt, bench, (weights, buffers))
    rows, flat = np.arange(len(names)), bench.model
    flat.load(weights, buffers)
    labels = np.zeros(len(names), dtype=np.int64)  # not known, and not read
    store = PatchStore("patches", model.seen(patches), labels, rows, {"test": rows}, "")
    images = Batches(store, flat.device, flat.mean, flat.std, AugmentSpec(), channels_last=flat.spec.channels_last)
    drawn = np.random.default_rng(0).permutation(rows)[: request.patches]
    adapter = Adapter(request, images, bench, drawn, rows, mix, batch_size)
    logits, done, dropped = adapter.adapted(steps_of(request.remedies[0]))
    said = f"Adapted by {name_of(done)} on {len(drawn)} of these patches" if done else "Not adapted: scores are plain"
    scores = probabilities(logits).tolist()
    return list(zip(names, scores, strict=True)), [said, *left_out({"left_out": dropped})]
