"""New patches of one site as monitoring needs them: scores, labels where there are any, source groups and stain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medfl.config.pipeline_config import Disclosure
from medfl.data.bag_store import BagStore
from medfl.data.group_stain import NO_STAIN, group_stains
from medfl.data.normalise import F64
from medfl.data.partition import own_partition
from medfl.data.patch_store import I64
from medfl.data.render import read_patches, warn_of_resolution
from medfl.errors import MedflError
from medfl.metrics.auroc import FloatArray
from medfl.metrics.drift import LEAST_GROUPS
from medfl.pipeline.build_site import build_site
from medfl.pipeline.evaluate_model import as_the_model_sees, pipeline_of, scores
from medfl.pipeline.load_pipeline import load_pipeline, load_site
from medfl.pipeline.predict_slides import holds_slides
from medfl.pipeline.site_stores import SiteStores
from medfl.pipeline.trained_model import TrainedModel
from medfl.site.measurement import probabilities

UNLABELLED = "unlabelled"
"""The class folder, or the word of a table, of patches whose class nobody has said."""
LEAST_PATCHES = 20


@dataclass(frozen=True)
class MonitoredPatches:
    """One site's new patches.

    Attributes:
        site: its name.
        probs: calibrated probabilities [N, C].
        labels: true class [N], -1 where nobody has said it.
        groups: source group [N], any integers.
        stain: [S, 6] of source groups with enough tissue; [0, 6] where nothing can be seen, as in bags of features.
        min_count: the disclosure floor.
        notes: what to know of them, in sentences.
    """

    site: str
    probs: FloatArray
    labels: I64
    groups: I64
    stain: F64
    min_count: int
    notes: Sequence[str] = ()


def monitored_patches(model: TrainedModel, site: str, pipeline_file: str | None) -> MonitoredPatches:
    """Score a site's patches; `site` is a site file, or a folder of images of which nobody has said the class.

    Raises:
        MedflError: no such file or folder, no images, fewer than 20 patches or 5 source groups, a class that the model
            does not know, a site without data of its own.
    """
    made = _of_folder(model, Path(site)) if Path(site).is_dir() else _of_site(model, site, pipeline_file)
    groups = len(np.unique(made.groups))
    word = "slides" if model.reads_bags else "patches"
    if len(made.groups) < LEAST_PATCHES or groups < LEAST_GROUPS:
        raise MedflError(
            f"{site}: {len(made.groups)} {word} of {groups} source groups are too few to tell drift from chance; "
            f"monitoring takes {LEAST_PATCHES} {word} of {LEAST_GROUPS} source groups (patients, slides)"
        )
    return made


def _of_folder(model: TrainedModel, folder: Path) -> MonitoredPatches:
    if model.reads_bags:
        source = "slides" if "tile" in model.facts else "features"
        raise MedflError(f"{folder}: the model reads features of slides; name a site file with `source: {source}`")
    if holds_slides(model, folder):
        raise MedflError(
            f"{folder} holds slides; write a site file with `data: {{source: slides, root: {folder}}}`, and its "
            "tiles are looked at"
        )
    names, images = read_patches(folder, model.facts["size"])
    parents = [name.partition("/")[0] if "/" in name else "" for name in names]
    loose = [index for index, parent in enumerate(parents) if not parent]
    classes = sorted(set(parents) & set(model.facts["classes"]))
    if classes:
        raise MedflError(
            f"{folder} has a folder {classes[0]}, a class of the model; write a site file with "
            f"`data: {{source: folder, root: {folder}}}`, and its labels count"
        )
    words = [parent or name for parent, name in zip(parents, names, strict=True)]
    groups = np.unique(words, return_inverse=True)[1].astype(np.int64)
    notes = [f"{len(loose)} images lie in no sub-folder, and each counts as a patient"] if loose else []
    labels, rows = np.full(len(names), -1, dtype=np.int64), np.arange(len(names))
    floor = load_pipeline(model.run.pipeline).disclosure.min_count if model.run else Disclosure().min_count
    stain = group_stains(images, rows, groups)
    return MonitoredPatches(folder.resolve().name or "site", scores(model, images), labels, groups, stain, floor, notes)


def _of_site(model: TrainedModel, file: str, pipeline_file: str | None) -> MonitoredPatches:
    pipeline, site = pipeline_of(model, pipeline_file), load_site(file)
    if site.data is None or not (site.data.root or pipeline.data.root):
        raise MedflError(f"{file}: site {site.name} has no `data.root`; add where its new patches lie")
    classes = model.facts["classes"]
    if pipeline.task.classes != classes:
        raise MedflError(
            f"`task.classes` of {pipeline.name} ({', '.join(pipeline.task.classes)}) are not the model's "
            f"({', '.join(classes)})"
        )
    if UNLABELLED in classes:
        raise MedflError(f"{file}: the model has a class {UNLABELLED}, so nothing else can be called so; name a folder")
    task = pipeline.task.model_copy(update={"classes": [*classes, UNLABELLED]})
    data = pipeline.data.model_copy(update={"size": model.facts["size"], "render": model.render})
    pipeline = pipeline.model_copy(update={"task": task, "data": data})
    site = site.model_copy(update={"role": "held_out", "patches": None})
    share = own_partition(pipeline, site, "held_out")
    warn_of_resolution(pipeline, [site])
    rendered = SiteStores(pipeline).of(site, share)
    if isinstance(rendered, BagStore) != model.reads_bags:
        read, has = ("features of slides", "patches") if model.reads_bags else ("patches", "features of slides")
        raise MedflError(f"{file}: site {site.name} has {has}, and the model reads {read}; give it a site of its kind")
    seen = as_the_model_sees(model, rendered)
    bench, weights, buffers = model.load()
    here = build_site(
        pipeline.model_copy(update={"task": task.model_copy(update={"classes": classes})}), site, seen, bench
    )
    probs = probabilities(here.evaluator.logits(weights, buffers, "test"), model.calibration)
    rows = rendered.splits["test"]
    labels, groups = rendered.labels[rows], rendered.groups[rows]
    stain = NO_STAIN if isinstance(rendered, BagStore) else group_stains(rendered.images, rows, groups)
    notes = ["source groups are not known, so each patch counts as a patient"] if share.catalog.groups_unknown else []
    unnamed = np.where(labels == len(classes), -1, labels)
    return MonitoredPatches(site.name, probs, unnamed, groups, stain, pipeline.min_count(site), notes)
