"""Generated tissue: haematoxylin-and-eosin patches of the five LC25000 classes, drawn from a seed.

A source tile is drawn as two maps, the amounts of haematoxylin and of eosin at every point, and becomes light by
Beer-Lambert under the reference stain matrix. Lengths are in patch sides, so the scene hardly depends on the
resolution. What separates the classes is architecture and nuclei, not colour: the amounts of both dyes, their exact
hues and the slide's tint vary from tile to tile, tissue edges and blood occur in every class.

Patches are augmented copies of source tiles (rotation up to 25 degrees, flips), as LC25000 was made.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.data.optics import EOSIN, HAEMATOXYLIN, U8, stain_matrix, to_grey
from medfl.data.scratch_folder import making
from medfl.data.synthetic.canvas import TILT, Canvas, tile_side
from medfl.data.synthetic.histology import DRAW
from medfl.data.synthetic.tissue_parts import edge
from medfl.errors import MedflError, nearest

TISSUE_CLASSES = ("lung_aca", "lung_n", "lung_scc", "colon_aca", "colon_n")
FILE_STEMS = ("lungaca", "lungn", "lungscc", "colonca", "colonn")  # LC25000's own, in the order of the classes
MANIFEST = "tissue.json"
VERSION = 1  # part of every digest; raise it whenever the drawing changes


def draw_tile(label: str, seed: int, index: int, size: int) -> U8:
    """Source tile `index` of a class, u8[S, S, 3] with S = tile_side(size). Each tile depends on its own index only."""
    import cv2

    rng = np.random.default_rng([seed, class_index(label), index])
    matrix = stain_matrix(HAEMATOXYLIN + rng.normal(0, 0.03, 3), EOSIN + rng.normal(0, 0.04, 3))
    amounts = np.exp(rng.normal(0, 0.28, 2)).clip(0.55, 1.6)
    warmth, dimness = rng.normal(0, 0.02), rng.uniform(0, 0.04)  # of the empty slide: a warm one absorbs blue
    tint = np.array([max(-warmth, 0), 0.01 + abs(warmth) / 2, max(warmth, 0)], np.float32) + dimness
    focus = rng.uniform(0.002, 0.006)
    section = Canvas(rng, size)
    DRAW[label](section)
    if label != "lung_n" and rng.uniform() < 0.35:
        section.cover(edge(section, (0.08, 0.42)), 0.015, 0.02)
    dyes = section.soft(np.stack([section.h, section.e], axis=-1), focus)
    light: NDArray[Any] = to_grey(dyes @ (amounts[:, None] * matrix[:2]).astype(np.float32) + tint)
    side = tile_side(size)
    return np.asarray(cv2.resize(light, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def draw_copies(label: str, seed: int, index: int, size: int, copies: int) -> U8:
    """Augmented copies of one source tile, u8[copies, size, size, 3]: rotated by up to 25 degrees, flipped."""
    import cv2

    tile = draw_tile(label, seed, index, size)
    rng = np.random.default_rng([seed, class_index(label), index, 1])
    middle = (len(tile) - 1) / 2
    patches = np.empty((copies, size, size, 3), np.uint8)
    for patch in patches:
        turn: NDArray[Any] = cv2.getRotationMatrix2D((middle, middle), rng.uniform(-TILT, TILT), 1.0)
        turn[:, 2] += (size - 1) / 2 - middle
        copy = cv2.warpAffine(tile, turn, (size, size), flags=cv2.INTER_LINEAR)
        across, down = rng.choice((-1, 1), 2)
        patch[:] = copy[::down, ::across]
    return patches


def tissue_digest(parameters: Mapping[str, object]) -> str:
    """Short hex name of what `write_tissue` would write under these keyword arguments, for a cache folder.

    The order of the classes does not count, the version of the drawing does.
    """
    plain = {key: sorted(value) if isinstance(value, list | tuple) else value for key, value in parameters.items()}
    text = json.dumps({"version": VERSION, **plain}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_tissue(
    root: Path,
    *,
    classes: Sequence[str],
    tiles_per_class: int,
    copies: int = 20,
    size: int = 96,
    seed: int = 0,
    workers: int = 2,
) -> Path:
    """Write generated tissue in LC25000's own layout and return its root.

    `lung_image_sets/lung_aca/lungaca1.jpeg` and so on, the copies of a tile one after another, and
    `source_groups.csv` (label,filename,source_group) which tells them. The folder appears whole or not at all; one
    that is there with equal parameters is returned at once.
    Raises MedflError for an unknown class, a figure below 1, a folder that holds something else, or an unwritable one.
    """
    for label in classes:
        class_index(label)
    figures = {"tiles_per_class": tiles_per_class, "copies": copies, "size": size}
    for key, value in figures.items():
        if value < 1:
            raise MedflError(f"data.tissue.{key} must be at least 1, got {value}.")
    manifest = {"version": VERSION, "classes": sorted(set(classes)), **figures, "seed": seed}
    try:
        if not _is_complete(root, manifest):
            _write(root, manifest, workers)
    except OSError as error:
        raise MedflError(
            f"Generated tissue cannot be written to {root} ({error.strerror}); "
            "make the folder writable or name another data.root."
        ) from None
    return root


def _is_complete(root: Path, manifest: Mapping[str, object]) -> bool:
    """Whether root holds just this tissue; False while it holds nothing, MedflError if it holds anything else."""
    try:
        there = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if root.is_dir() and any(root.iterdir()):
            raise MedflError(
                f"{root} holds files but no generated tissue ({MANIFEST}); name an empty or new folder for data.root."
            ) from None
        return False
    except ValueError:
        there = {}
    if there != manifest:
        differing = [key for key in manifest if there.get(key) != manifest[key]]
        was = ", ".join(f"{key} {there.get(key)} instead of {manifest[key]}" for key in differing)
        raise MedflError(
            f"{root} holds generated tissue of other parameters ({was}); remove it or name another data.root."
        )
    return True


def _write(root: Path, manifest: dict[str, Any], workers: int) -> None:
    """Draw everything into a hidden sibling folder, then rename it into place."""
    import cv2

    tiles = [(label, index) for label in manifest["classes"] for index in range(manifest["tiles_per_class"])]

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # tiles side by side use the cores better than cv2's threads within one
    try:
        with making(root) as draft:
            for label in manifest["classes"]:
                (draft / _folder(label)).mkdir(parents=True)

            def save(tile: tuple[str, int]) -> list[str]:
                return _save_copies(draft, *tile, manifest["seed"], manifest["size"], manifest["copies"])

            with ThreadPoolExecutor(workers) as pool:
                lines = [line for table in pool.map(save, tiles) for line in table]
            (draft / "source_groups.csv").write_text("\n".join(["label,filename,source_group", *lines, ""]))
            (draft / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            if root.is_dir() and not any(root.iterdir()):  # some systems do not rename onto a folder
                root.rmdir()
    finally:
        cv2.setNumThreads(threads)
    if not _is_complete(root, manifest):  # another process was faster, with something else
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def _save_copies(root: Path, label: str, index: int, seed: int, size: int, copies: int) -> list[str]:
    """Save one tile's copies as JPEG; returns their lines of `source_groups.csv`."""
    from PIL import Image

    lines = []
    for k, patch in enumerate(draw_copies(label, seed, index, size, copies)):
        name = f"{FILE_STEMS[class_index(label)]}{index * copies + k + 1}.jpeg"
        Image.fromarray(patch).save(root / _folder(label) / name, quality=95, subsampling=0)
        lines.append(f"{label},{name},{label}-{index:04d}")
    return lines


def _folder(label: str) -> str:
    return f"{label.split('_')[0]}_image_sets/{label}"


def class_index(label: str) -> int:
    """The number of a class that can be drawn. Raises MedflError for any other."""
    if label not in TISSUE_CLASSES:
        raise MedflError(
            f'Generated tissue has no class "{label}".{nearest(label, TISSUE_CLASSES)} '
            f"task.classes may name {', '.join(TISSUE_CLASSES)}."
        )
    return TISSUE_CLASSES.index(label)
