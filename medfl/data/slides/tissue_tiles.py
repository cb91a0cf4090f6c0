"""All tiles of tissue of a slide, whatever was drawn on it, and what a function of their pixels gives for them.

This is what a bag is made of, and what is looked at where nothing is known of a slide but itself.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medfl.data.optics import F32
from medfl.data.patch_store import I64, U8
from medfl.data.render import Renderer, RenderSettings
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_collection import WORKERS, SlideCollection, drawn_tiles
from medfl.data.slides.slide_folder import SlideFiles
from medfl.data.slides.slide_reader import Slide
from medfl.data.slides.slide_tiling import tile_slide
from medfl.data.store_file import Problems
from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.data.image_file import PatchReader

TileFunction = Callable[[U8], F32]
"""Tiles u8[k, S, S, 3] in, f32[k, F] out."""


@dataclass(frozen=True)
class TissueTiles:
    """Tiles of one slide.

    Attributes:
        slide: its files.
        x, y: i64[n], corners in level-0 pixels.
        side: level-0 pixels of a tile's side.
        mpp: microns per pixel of level 0.
        marks: share of the slide that a pen marked.
        undrawn: tiles of tissue beyond `per_slide_max`.
    """

    slide: SlideFiles
    x: I64
    y: I64
    side: float
    mpp: float
    marks: float = 0.0
    undrawn: int = 0


def tissue_tiles(collection: SlideCollection, slide: SlideFiles) -> TissueTiles:
    """A slide's tiles, found once and noted in the cache.

    Raises:
        Unreadable: it is damaged, does not say its microns per pixel, or has no tissue. OSError: it cannot be opened.
    """
    tiling = tile_slide(collection.task(replace(slide, annotation=None)), collection.spec.cache)
    rows = list(range(len(tiling.x)))
    if not rows:
        raise Unreadable("no tile of it holds enough tissue; lower `data.tile.min_tissue`, or remove it")
    limit = collection.tile.per_slide_max
    kept = drawn_tiles(slide, rows, limit) if limit and len(rows) > limit else rows
    x, y = (np.array(values, dtype=np.int64)[kept] for values in (tiling.x, tiling.y))
    return TissueTiles(slide, x, y, tiling.side, tiling.mpp, tiling.marks, len(rows) - len(kept))


def tiles_print(collection: SlideCollection, slide: SlideFiles) -> str:
    """A digest of a slide and of how it is tiled: the same wherever it lies. Raises OSError."""
    mpp = collection.facts(slide).mpp or collection.spec.mpp
    how = json.dumps([collection.print_of(slide), mpp, asdict(collection.scale), collection.tile.per_slide_max])
    return hashlib.sha256(how.encode()).hexdigest()[:32]


def tiles_or_reasons(collection: SlideCollection, slides: Sequence[SlideFiles]) -> list[TissueTiles | str]:
    """The tiles of each slide, or why there are none; looked at on a few threads."""

    def one(slide: SlideFiles) -> TissueTiles | str:
        try:
            return tissue_tiles(collection, slide)
        except (Unreadable, OSError) as error:
            return getattr(error, "strerror", None) or str(error)

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(one, slides))


@dataclass(frozen=True)
class _TilesToRead:
    """Tiles as a renderer takes patches."""

    site: str
    names: Sequence[str]
    readers: Sequence[PatchReader]
    locations: Sequence[str]


def tile_pixels(collection: SlideCollection, tiles: TissueTiles, look: RenderSettings) -> Iterator[U8]:
    """The tiles u8[k, S, S, 3], some at a time, in their order.

    Raises:
        Unreadable: the slide is damaged where one of them is. MedflError: it cannot be read now.
    """
    path, size = collection.folder / tiles.slide.files[0], collection.scale.size
    slide = Slide(path)
    places = list(zip(tiles.x.tolist(), tiles.y.tolist(), strict=True))
    names = [f"{tiles.slide.name}#{x},{y}" for x, y in places]
    readers = [functools.partial(slide.read, x, y, tiles.side, tiles.side, (size, size)) for x, y in places]
    problems: Problems = {}
    locations = [f"{collection.folder}/{name}" for name in names]
    renderer = Renderer(_TilesToRead(collection.spec.site or "here", names, readers, locations), look)
    try:
        for chunk in renderer.patches(range(len(places)), problems):
            if not problems:
                yield chunk
    except MedflError:
        if len(problems) < len(places):  # else no tile can be read, which is the slide's fault
            raise
    if problems:
        at, reason = next(iter(problems.items()))
        raise Unreadable(f"its tile at {places[at][0]}, {places[at][1]} is {reason}")


def of_tiles(function: TileFunction, collection: SlideCollection, tiles: TissueTiles, look: RenderSettings) -> F32:
    """What a function gives for each tile, f32[n, F]. Raises as `tile_pixels`."""
    return np.concatenate([function(chunk) for chunk in tile_pixels(collection, tiles, look)])
