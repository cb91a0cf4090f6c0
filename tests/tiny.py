"""The tiny pipeline on generated tissue that tests of whole runs share: seconds to carry out, drawn once a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CLASSES = ["lung_aca", "lung_n", "colon_n"]
SMALLEST = {"backbone": "test_vit", "args": {"depth": 1, "embed_dim": 16, "num_heads": 1, "img_size": 32}}
WITH_BATCHNORM = {"backbone": "test_byobnet"}
"""Five times as slow as the smallest, convolutions and BatchNorm: for tests of what a network has."""
GENERATED = {"generate": {"count": 3, "held_out": 1, "patches": 45, "dirichlet_alpha": 5.0}}
TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 5,
    "task": {"classes": CLASSES},
    "data": {"source": "tissue", "size": 32, "mpp": 0.5, "tissue": {"tiles_per_class": 24, "copies": 4, "size": 32}},
    "sites": GENERATED,
    "model": SMALLEST,
    "training": {"rounds": 2, "batch_size": 8, "threads": 1, "optimizer": {"lr": 0.02}},
    "evaluation": {"resamples": 100},
    "disclosure": {"min_count": 1},  # its sites have a handful of source groups
    "tracking": {"enabled": False},
}


def tiny(**changes: Any) -> dict[str, Any]:
    """The pipeline as a mapping. A change of `training` sets the keys that it names; any other replaces the section."""
    training = TINY["training"] | changes.pop("training", {})
    return TINY | {"training": training} | changes


def write_tiny(folder: Path, **changes: Any) -> Path:
    """Write the pipeline with changes into a folder; its file is named after it."""
    made = tiny(**changes)
    path = folder / f"{made['name']}.yaml"
    path.write_text(yaml.safe_dump(made))
    return path
