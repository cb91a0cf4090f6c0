"""Where the tiles of a slide lie, how much of each is tissue, and which regions cover it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medfl import config
from medfl.data.optics import F32
from medfl.data.slides.annotation_file import Region
from medfl.data.slides.slide_library import slide_library

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class TileScale:
    """What every tile is: pixels a side, microns per pixel, pixels that neighbours share, the least share of tissue."""

    size: int
    mpp: float
    overlap: int
    min_tissue: float

    def side(self, mpp: float) -> float:
        """Level-0 pixels of a tile's side on a slide of these microns per pixel."""
        return self.size * self.mpp / mpp


def tile_scale(data: config.Data) -> TileScale | None:
    """What a pipeline says of its tiles; None where it does not say at which microns per pixel."""
    tile = data.tile or config.TileSettings()
    mpp = tile.mpp or data.mpp
    return TileScale(tile.size or data.size, mpp, tile.overlap, tile.min_tissue) if mpp else None


def grid(width: int, height: int, side: float, overlap: float) -> tuple[I64, I64]:
    """Corners of all tiles that lie wholly on a slide, row by row, x and y i64[n] in level-0 pixels.

    Args:
        width, height: of the slide, in level-0 pixels.
        side: of a tile.
        overlap: what neighbours share; tile k of a row begins at k (side - overlap), rounded.
    """
    step = side - overlap
    columns = max(0, math.floor((width - side) / step) + 1)
    rows = max(0, math.floor((height - side) / step) + 1)
    x, y = np.meshgrid(np.arange(columns) * step, np.arange(rows) * step)
    return np.rint(x.ravel()).astype(np.int64), np.rint(y.ravel()).astype(np.int64)


def covers(regions: Sequence[Region], x: I64, y: I64, side: float) -> F32:
    """How much of each tile each region covers, f32[n, regions]."""
    shapely = slide_library("shapely")
    boxes = shapely.box(x, y, x + side, y + side)
    tree = shapely.STRtree(boxes)
    shares = np.zeros((len(x), len(regions)), np.float64)
    for index, region in enumerate(regions):
        for part in shapely.get_parts(region.shape):
            shapely.prepare(part)
            inside = tree.query(part, predicate="contains_properly")
            shares[inside, index] += 1
            touching = np.setdiff1d(tree.query(part, predicate="intersects"), inside)
            shares[touching, index] += shapely.area(shapely.intersection(boxes[touching], part)) / side**2
    return shares.astype(np.float32)


def overlaps(regions: Sequence[Region]) -> list[tuple[str, str, float]]:
    """Pairs of words whose regions overlap, and how much of the smaller one that is."""
    pairs = []
    for index, one in enumerate(regions):
        for other in regions[index + 1 :]:
            common = one.shape.intersection(other.shape).area
            if common:
                pairs.append((one.word, other.word, common / min(one.shape.area, other.shape.area)))
    return pairs
