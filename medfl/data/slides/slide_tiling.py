"""A slide's tiles, found once and noted in the cache: a second start opens no slide, and a stopped one goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfl.data.atomic_file import PRIVATE_FOLDER, write_text
from medfl.data.rgb import Unreadable
from medfl.data.slides.annotation_file import AnnotationFile, Region, moved, read_annotations
from medfl.data.slides.slide_library import slide_library
from medfl.data.slides.slide_reader import Slide
from medfl.data.slides.tile_grid import TileScale, covers, grid, overlaps
from medfl.data.slides.tissue_mask import TissueMask, tissue_mask

VERSION = 1  # of what is found; raise it whenever the same slide gives other tiles
DIGITS = 4
LONGEST_SIDE = 16_384  # level-0 pixels of a tile
MARKED = 0.001  # of a slide, above which its pen marks are told


@dataclass(frozen=True)
class SlideTiling:
    """The tiles of one slide that hold enough tissue.

    Attributes:
        mpp: microns per pixel of level 0.
        side: level-0 pixels of a tile's side.
        x, y: corners, in level-0 pixels.
        words: of the regions that were drawn on it, empty where none were.
        shares: how much of each tile each region covers, a list for each tile.
        overlaps: pairs of words whose regions overlap, and how much of the smaller one.
        marks: share of the slide that a pen marked.
        notes: what else is to be told of its annotations.
    """

    mpp: float
    side: float
    x: list[int]
    y: list[int]
    words: list[str]
    shares: list[list[float]]
    overlaps: list[tuple[str, str, float]]
    marks: float
    notes: list[str]


@dataclass(frozen=True)
class SlideLook:
    """A slide as a person looks at it: its mask and its regions, in level-0 pixels, with the tiles."""

    mask: TissueMask
    regions: tuple[Region, ...]
    tiling: SlideTiling


@dataclass(frozen=True)
class SlideTask:
    """A slide to be looked at.

    Attributes:
        path: its file.
        annotation: its annotation file, None without one.
        scale: what a tile is.
        mpp: microns per pixel that are stated, None without.
        override: they count even where the slide says others.
        prints: digests of its files.
    """

    path: Path
    annotation: Path | None
    scale: TileScale
    mpp: float | None = None
    override: bool = False
    prints: tuple[str, ...] = ()

    def note(self, cache: Path) -> Path:
        """The file in which its tiles are noted."""
        key = json.dumps([VERSION, self.prints, asdict(self.scale), self.mpp, self.override])
        return cache / "slides" / "tiles" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def look_at(task: SlideTask) -> SlideLook:
    """Find tissue, tiles and regions of a slide.

    Raises:
        Unreadable: the slide or its annotation cannot be read, says no microns per pixel, or cannot give such tiles.
    """
    slide, scale = Slide(task.path, task.mpp, task.override), task.scale
    if slide.mpp is None:
        raise Unreadable(
            "it does not say its microns per pixel; state them in the column mpp of slides.csv, or as `mpp` in the "
            "site file"
        )
    side = scale.side(slide.mpp)
    if side < 1 or side > LONGEST_SIDE:
        raise Unreadable(f"a tile would be {side:.0f} pixels wide on it; at most {LONGEST_SIDE:,}")
    regions: tuple[Region, ...] = ()
    notes: list[str] = []
    if task.annotation is not None:
        regions, notes = _regions(task.annotation, slide)
    mask = tissue_mask(slide, side, slide.mpp)
    x, y = grid(slide.width, slide.height, side, scale.overlap * side / scale.size)
    if len(x):
        keep = mask.shares(mask.tissue, x, y, side) >= max(scale.min_tissue, 1e-6)
        x, y = x[keep], y[keep]
    shares = np.round(covers(regions, x, y, side).astype(float), DIGITS)
    tiling = SlideTiling(
        mpp=slide.mpp,
        side=side,
        x=x.tolist(),
        y=y.tolist(),
        words=[region.word for region in regions],
        shares=shares.tolist(),
        overlaps=overlaps(regions),
        marks=float(mask.marks.mean()),
        notes=notes,
    )
    return SlideLook(mask, regions, tiling)


def tile_slide(task: SlideTask, cache: Path) -> SlideTiling:
    """The tiles of a slide, noted in the folder `cache` under the digests of its files. Raises as `look_at` does."""
    file = task.note(cache)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return _read(file)
    tiling = look_at(task).tiling
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time and nothing else
        file.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        body = json.dumps(asdict(tiling))
        write_text(file, f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n")
    return tiling


def _read(file: Path) -> SlideTiling:
    body, _, check = file.read_text(encoding="utf-8").partition("\n")
    if check.strip() != hashlib.sha256(body.encode()).hexdigest():
        raise ValueError
    facts: dict[str, Any] = json.loads(body)
    facts["overlaps"] = [tuple(pair) for pair in facts["overlaps"]]
    return SlideTiling(**facts)


def _regions(path: Path, slide: Slide) -> tuple[tuple[Region, ...], list[str]]:
    """The regions of an annotation file in level-0 pixels of its slide, and what is to be told of them."""
    try:
        content = read_annotations(path)
    except Unreadable as error:
        raise Unreadable(f"its annotation {path.name} is {error}") from None
    origin = slide.origin if content.from_bounds else (0, 0)
    regions = tuple(Region(region.word, moved(region.shape, origin)) for region in content.regions)
    box = slide_library("shapely").box(0, 0, slide.width, slide.height)
    if not any(region.shape.intersects(box) for region in regions):
        raise Unreadable(
            f"its annotation {path.name} lies wholly outside of its {slide.width:,} x {slide.height:,} pixels; it may "
            f"be another slide's, or not count pixels of the finest level"
        )
    return regions, _notes(content)


def _notes(content: AnnotationFile) -> list[str]:
    notes = [f"{count} {kind} left out" for kind, count in sorted(content.left_out.items())]
    return notes + ([f"{content.mended} shapes that cross themselves were mended"] if content.mended else [])
