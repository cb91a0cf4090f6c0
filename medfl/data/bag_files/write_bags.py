"""Features written as TRIDENT lays them out, for this and other tools to read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.data.atomic_file import replacing
from medfl.data.bag_files.bag_reader import MPP_AT_1X
from medfl.data.bag_store import Features
from medfl.data.table_file import open_table

TABLE = "slides.csv"
MADE_OF = "made_of"


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a folder: pixels a side, microns per pixel, pixels that neighbours share, and microns per pixel of
    the slide's largest level, in whose pixels coordinates are."""

    pixels: int = 256
    mpp: float = 0.5
    overlap: int = 0
    base_mpp: float = 0.5

    @property
    def magnification(self) -> float:
        """Of the objective that shows as many microns per pixel."""
        return MPP_AT_1X / self.mpp


def features_folder(root: Path, encoder: str, grid: TileGrid) -> Path:
    """Where TRIDENT keeps the features of an encoder below a job's folder."""
    return root / f"{grid.magnification:g}x_{grid.pixels}px_{grid.overlap}px_overlap" / f"features_{encoder}"


def write_bag(
    folder: Path, slide: str, features: Features, coords: NDArray[Any], encoder: str, grid: TileGrid, made_of: str = ""
) -> Path:
    """Write `<slide>.h5`, whole or not at all.

    Args:
        folder: as `features_folder` names it; made where it is not there.
        slide: the slide's name.
        features: f32 or f16 [n, F].
        coords: [n, 2], upper left corner of each tile in pixels of the slide's largest level.
        encoder: what made the features.
        grid: the tiles.
        made_of: a digest of what they were made of, for whoever would make them again.

    Returns:
        The file. Raises OSError where it cannot be written, ValueError for arrays that do not fit together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{slide}.h5"
    with replacing(file) as staged:
        write_features(staged, features, coords, encoder, grid, made_of, slide)
    return file


def write_features(
    file: Path,
    features: Features,
    coords: NDArray[Any],
    encoder: str = "",
    grid: TileGrid | None = None,
    made_of: str = "",
    slide: str = "",
) -> None:
    """Write a file as `write_bag` does, in its place at once. Raises OSError, ValueError."""
    import h5py

    grid = grid or TileGrid()
    if features.ndim != 2 or np.shape(coords) != (len(features), 2):
        raise ValueError(
            f"features {list(features.shape)} and coords {list(np.shape(coords))} are not of the same tiles"
        )
    with h5py.File(file, "w") as out:
        out.create_dataset("features", data=features).attrs["encoder"] = encoder
        place = out.create_dataset("coords", data=np.asarray(coords))
        place.attrs["patch_size"] = grid.pixels
        place.attrs["patch_size_level0"] = round(grid.pixels * grid.mpp / grid.base_mpp)
        place.attrs["target_magnification"] = grid.magnification
        place.attrs["level0_magnification"] = MPP_AT_1X / grid.base_mpp
        place.attrs["overlap"] = grid.overlap
        place.attrs["name"] = slide or file.stem
        if made_of:
            out.attrs[MADE_OF] = made_of


def write_label_table(root: Path, rows: Iterable[tuple[str, str, str]]) -> Path:
    """Write `slides.csv` with (patient, slide, label) of each slide."""
    with open_table(root / TABLE, ("patient", "slide", "label")) as writer:
        for row in rows:
            writer.writerow(row)
    return root / TABLE
