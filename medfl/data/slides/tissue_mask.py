"""Where on a slide there is tissue: optical density above the glass, without marks of a pen.

Densities are those of `medfl.data.optics`, natural, per colour and above those of the slide's own glass. Both dyes of
haematoxylin and eosin absorb green most and blue least; the ink of a pen absorbs red more than green (blue and green
pens), blue as much as green (red pens), or all three strongly alike (black pens). Brown DAB absorbs blue most, and
some red, and counts as tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medfl.data.optics import F32, to_density
from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_reader import Slide

Mask = NDArray[np.bool_]

CELLS = 8  # of the mask along a tile's side
COARSEST = 8.0  # microns of a cell at most
MAX_CELLS = 4_000_000  # 250 MB at work, whatever the slide
DENSITY = 0.12  # of the colour that absorbs most; a tenth of the light is gone
GLASS = 99.0  # percentile of the grey levels that counts as glass
DARKEST_GLASS = 140
INK = 0.6  # density of the colour that absorbs most, below which nothing is taken for ink
BLUE_INK, RED_INK, RED_LETS, BLACK_INK, BLACK = 1.2, 0.85, 0.2, 0.75, 1.0


@dataclass(frozen=True)
class TissueMask:
    """What lies where on a slide.

    Attributes:
        picture: u8[h, w, 3], the slide as it was looked at.
        scale: level-0 pixels of a side of one cell.
        tissue: bool[h, w], without what a pen marked.
        marks: bool[h, w], the marks of a pen.
    """

    picture: U8
    scale: float
    tissue: Mask
    marks: Mask

    def shares(self, mask: Mask, x: NDArray[np.int64], y: NDArray[np.int64], side: float) -> F32:
        """How much of each square of level-0 pixels a mask covers, f32[n]; the corner of each is (x, y)."""
        table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
        table[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
        left, top = (np.round(start / self.scale).astype(np.int64) for start in (x, y))
        right, bottom = (np.ceil((start + side) / self.scale).astype(np.int64) for start in (x, y))
        right, bottom = np.minimum(right, mask.shape[1]), np.minimum(bottom, mask.shape[0])
        left, top = np.minimum(left, right - 1), np.minimum(top, bottom - 1)
        covered = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        return np.asarray(covered / ((right - left) * (bottom - top)), dtype=np.float32)


def tissue_mask(slide: Slide, side: float, mpp: float) -> TissueMask:
    """Find the tissue of a slide.

    Gaps smaller than a tile, the lumina and vacuoles of a tissue, are tissue; bits smaller than a quarter of one are
    none, and no mark of a pen.

    Args:
        slide: the slide.
        side: level-0 pixels of a tile's side.
        mpp: microns per pixel of level 0.

    Raises:
        Unreadable: no pyramid, or a picture that no bright light went through.
    """
    scale = max(min(side / CELLS, COARSEST / mpp), (slide.width * slide.height / MAX_CELLS) ** 0.5, 1.0)
    picture, scale = slide.overview(scale)
    density = _above_glass(picture)
    field = (side / scale) ** 2
    marks = _without_bits(_ink(density), field / 4)
    tissue = (density.max(axis=-1) > DENSITY) & ~marks
    tissue = _without_bits(tissue, field / 4)
    gaps = ~(tissue | marks)
    tissue |= gaps & ~_without_bits(gaps, field)
    return TissueMask(picture, scale, tissue, marks)


def _above_glass(picture: U8) -> F32:
    """Density above the glass f32[h, w, 3], a little smoothed. Raises Unreadable for a dark picture."""
    import cv2

    glass = np.percentile(picture.reshape(-1, 3)[:: max(1, picture.size // 3_000_000)], GLASS, axis=0)
    if glass.max() < DARKEST_GLASS or np.median(picture.max(axis=-1)) < DARKEST_GLASS / 4:
        raise Unreadable(
            "a dark picture, as of fluorescence; tissue is looked for on sections that are stained and seen in bright "
            "light"
        )
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
    density = to_density(np.asarray(smooth)) - to_density(np.round(glass).astype(np.uint8))
    return np.asarray(np.maximum(density, 0), dtype=np.float32)


def _ink(density: F32) -> Mask:
    """Where a pen wrote, bool[h, w]."""
    import cv2

    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    strong = density.max(axis=-1) > INK
    cold = red > BLUE_INK * np.maximum(green, 1e-3)
    warm = (blue > RED_INK * green) & (green > RED_INK * blue) & (red < RED_LETS * green)
    black = (density.min(axis=-1) > BLACK_INK * density.max(axis=-1)) & (density.min(axis=-1) > BLACK)
    ink = (strong & (cold | warm | black)).astype(np.uint8)
    return np.asarray(cv2.dilate(ink, np.ones((5, 5), np.uint8)), dtype=np.bool_)


def _without_bits(mask: Mask, least: float) -> Mask:
    """The connected parts of a mask that have at least so many cells."""
    import cv2

    _, parts, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = facts[:, cv2.CC_STAT_AREA] >= least
    keep[0] = False
    return np.asarray(keep[parts], dtype=np.bool_)
