"""Small image folders, CSV files and pipelines for tests."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medfl import config
from tests.paths import LC25000, MITOSES

OWN = {"source": "folder", "mode": "own", "size": 32}  # the `data` of a pipeline whose sites bring their own folders
CLASSES = ("lung_aca", "lung_n", "lung_scc", "colon_aca", "colon_n")
needs_lc25000 = pytest.mark.skipif(
    not LC25000.is_dir(), reason=f"LC25000 is not at {LC25000}; set MEDFL_LC25000 to where it lies"
)

needs_mitoses = pytest.mark.skipif(
    not MITOSES.is_dir(), reason=f"the mitoses are not at {MITOSES}; set MEDFL_MITOSES to where they lie"
)


def real_lc25000() -> Path:
    """The real images; use with `needs_lc25000`."""
    return LC25000


def pixels(seed: int, size: int = 16) -> np.ndarray:
    """A patch u8[size, size, 3] of its own for every seed."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def write_image(path: Path, image: np.ndarray, **options: Any) -> Path:
    """Write an array as the format its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a table and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_folders(root: Path, counts: Mapping[str, int], per_group: int = 2, size: int = 16, seed: int = 0) -> Path:
    """`<root>/<class>/<patient>/<image>.png`: so many images a class, `per_group` from each patient."""
    for number, (label, count) in enumerate(counts.items()):
        (root / label).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            patient = f"{label}-p{index // per_group:02d}"
            image = pixels(seed + 1000 * number + index, size)
            write_image(root / label / patient / f"{index:03d}.png", image)
    return root


def own_folder(root: Path, words: dict[str, int], seed: int) -> Path:
    """A hospital's own tree: class folders under its own names, a sub-folder a patient, three patches each."""
    rng = np.random.default_rng(seed)
    for word, colour in words.items():
        for patient in range(8):
            folder = root / word / f"patient-{seed}-{patient}"
            folder.mkdir(parents=True)
            for k in range(3):
                pixels = rng.integers(0, 90, (40, 40, 3), dtype=np.uint8)
                pixels[:, :, colour] += 120
                Image.fromarray(pixels).save(folder / f"{k}.png")
    return root


def write_lc25000(
    root: Path, tiles: int = 6, copies: int = 2, classes: Sequence[str] = CLASSES, size: int = 16, groups: bool = True
) -> Path:
    """LC25000's layout with `tiles` x `copies` images a class, and `source_groups.csv` inside unless told not to."""
    rows = []
    for number, label in enumerate(classes):
        for index in range(tiles * copies):
            name = f"{label.replace('_', '')}{index + 1}.png"
            organ = label.split("_")[0]
            write_image(root / f"{organ}_image_sets" / label / name, pixels(1000 * number + index, size))
            rows.append((label, name, f"{label}-{index // copies:04d}"))
    if groups:
        write_csv(root / "source_groups.csv", ("label", "filename", "source_group"), rows)
    return root


def site(name: str, root: Path | None = None, source: str | None = None, **keys: Any) -> dict[str, Any]:
    """A site mapping; with `root`, one that brings its own data."""
    own = {"root": str(root)} if root else {}
    own |= {"source": source} if source else {}
    return {"name": name, **({"data": own} if own else {}), **keys}


def pipeline(
    train: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] = CLASSES,
    seed: int = 0,
    **data: Any,
) -> config.Pipeline:
    """A pipeline over these sites; keywords are keys of `data`."""
    data = {"source": "lc25000", "size": 16, **data}
    data = {key: str(value) if isinstance(value, Path) else value for key, value in data.items()}
    made = config.Pipeline.model_validate(
        {
            "name": "toy",
            "seed": seed,
            "task": {"classes": list(classes)},
            "data": data,
            "sites": {
                "train": [{"role": "train", **entry} for entry in train or [{"name": "nobody"}]],
                "held_out": [{"role": "held_out", **entry} for entry in held_out],
            },
            "model": {"backbone": "resnet18"},
            "training": {"rounds": 1},
        }
    )
    return made if train else made.model_copy(update={"sites": made.sites.model_copy(update={"train": []})})
