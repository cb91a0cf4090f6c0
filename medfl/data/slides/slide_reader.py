"""A whole slide: opened, and read at a wanted scale from the level that has it or the next finer one.

Places are pixels of the finest level, level 0. A scale is how many of them one pixel of the result covers; levels are
chosen by it and never by their number, which means something else in every scanner's files.
"""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medfl.data.patch_store import U8
from medfl.data.rgb import MAX_PIXELS, Unreadable
from medfl.data.slides.slide_library import slide_library

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".bif", ".dcm", ".vms", ".vmu", ".svslide", ".czi")
BLOCK = 2048  # pixels a side that are read at a time, so that memory does not grow with the slide
NEAR = 1.01  # a level this much coarser than the wanted scale still has it: levels are rounded to whole pixels
MPP_RANGE = (0.05, 20.0)  # what is outside is a TIFF's print resolution
SKEW = 0.05
OPEN = 4  # slides that are kept open
CACHE_BYTES = 1 << 26  # decoded pixels that OpenSlide keeps of all of them together
BEGINS = {
    b"\xff\xd8\xff": "a JPEG",
    b"\x89PNG": "a PNG",
    b"%PDF": "a PDF",
    b"PK\3\4": "a ZIP archive",
    b"GIF8": "a GIF",
}
DICOM = ".dcm"
SERIES = re.compile(rb"\x20\x00\x0e\x00UI..([0-9.]+)", re.DOTALL)  # SeriesInstanceUID (0020,000E), which names a slide
HEAD = 1 << 16  # bytes of a DICOM file in which it stands
PYRAMID = "`vips tiffsave SLIDE OUT.tif --tile --pyramid --compression jpeg` writes one"


class LevelReader(Protocol):
    """A file of several images of one slide, coarser and coarser.

    Attributes:
        dimensions: width and height in pixels of each level, finest first.
        mpp: microns per pixel of level 0 along x and y, None where the file does not say.
        origin: level-0 pixel at which the scanned part begins, from which QuPath counts.
    """

    dimensions: Sequence[tuple[int, int]]
    mpp: tuple[float, float] | None
    origin: tuple[int, int]

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> U8:
        """`width` x `height` pixels of a level from level-0 pixel (x, y) on, u8[height, width, 3]."""


class OpenSlideReader:
    """A slide through OpenSlide."""

    def __init__(self, path: Path) -> None:
        library = slide_library("openslide")
        self._slide = library.OpenSlide(str(path))
        self._slide.set_cache(_decoded_tiles())
        facts = self._slide.properties
        self.dimensions: Sequence[tuple[int, int]] = self._slide.level_dimensions
        both = facts.get(library.PROPERTY_NAME_MPP_X), facts.get(library.PROPERTY_NAME_MPP_Y)
        self.mpp = (float(both[0]), float(both[1])) if both[0] and both[1] else None
        self.origin = (
            int(facts.get(library.PROPERTY_NAME_BOUNDS_X, 0)),
            int(facts.get(library.PROPERTY_NAME_BOUNDS_Y, 0)),
        )
        colour = facts.get(library.PROPERTY_NAME_BACKGROUND_COLOR) or "FFFFFF"
        self._background = tuple(bytes.fromhex(colour))

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> U8:
        """Pixels of a level; what was not scanned has the slide's background colour."""
        from PIL import Image

        region = self._slide.read_region((x, y), level, (width, height))
        picture = Image.new("RGB", region.size, self._background)
        picture.paste(region, None, region)
        return np.asarray(picture)


class Slide:
    """One whole slide, safe to be read by several threads.

    Args:
        path: its file; of a DICOM slide any of its files.
        mpp: microns per pixel of level 0 where the file does not say them, or says what is not so.
        override: `mpp` counts even where the file says them.

    Raises:
        Unreadable: no slide, or a damaged one; says what it is. MedflError: an extra is not installed.
    """

    def __init__(self, path: Path, mpp: float | None = None, override: bool = False) -> None:
        self.path = path
        self._reader = _open(path)
        self.width, self.height = self._reader.dimensions[0]
        self.origin = self._reader.origin
        self.downsamples = [
            (self.width / width + self.height / height) / 2 for width, height in self._reader.dimensions
        ]
        own = None if override and mpp else _checked_mpp(self._reader.mpp)
        self.mpp = own or mpp

    def level_for(self, scale: float) -> int:
        """The coarsest level that is not coarser than `scale`; level 0 where all are."""
        able = [level for level, downsample in enumerate(self.downsamples) if downsample <= scale * NEAR]
        return max(able, key=lambda level: self.downsamples[level], default=0)

    def read(self, x: int, y: int, width: float, height: float, shape: tuple[int, int]) -> U8:
        """A rectangle of level-0 pixels as u8[rows, columns, 3] with `shape` (rows, columns), from the level of that
        scale.

        What the level holds is cut at whole pixels, and resized by the mean over areas where it is not `shape` then.
        Raises Unreadable.
        """
        rows, columns = shape
        level = self.level_for(min(width / columns, height / rows))
        downsample = self.downsamples[level]
        return _resized(self._level(level, x, y, round(width / downsample), round(height / downsample)), shape)

    def overview(self, scale: float) -> tuple[U8, float]:
        """The whole slide u8[h, w, 3] at `scale` or coarser, and its scale; read block by block.

        Raises Unreadable for a slide that would have to be read whole for it: one without a pyramid.
        """
        level = self.level_for(scale)
        if math.prod(self._reader.dimensions[level]) > MAX_PIXELS:
            level = self.downsamples.index(max(self.downsamples))
            if math.prod(self._reader.dimensions[level]) > MAX_PIXELS:
                width, height = self._reader.dimensions[level]
                raise Unreadable(
                    f"a slide without a pyramid: its coarsest level has {width:,} x {height:,} pixels; {PYRAMID}"
                )
        scale = max(scale, self.downsamples[level])
        columns, rows = max(1, round(self.width / scale)), max(1, round(self.height / scale))
        picture = np.empty((rows, columns, 3), np.uint8)
        step = max(1, int(BLOCK * self.downsamples[level] / scale))
        for top in range(0, rows, step):
            for left in range(0, columns, step):
                part = picture[top : top + step, left : left + step]
                x, y = round(left * scale), round(top * scale)
                part[:] = self.read(x, y, part.shape[1] * scale, part.shape[0] * scale, part.shape[:2])
        return picture, scale

    def _level(self, level: int, x: int, y: int, width: int, height: int) -> U8:
        try:
            return self._reader.read_level(level, x, y, max(width, 1), max(height, 1))
        except (MemoryError, Unreadable):
            raise
        except Exception as error:  # a damaged file may raise anything
            raise Unreadable(f"damaged: {_reason(error)}") from None


class OpenSlides:
    """Slides that are in use, the latest few kept open: tiles are read slide by slide."""

    def __init__(self) -> None:
        self._slides: OrderedDict[Path, Slide] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__()  # type: ignore[misc]  # the process that unpickles it opens them itself

    def get(self, path: Path) -> Slide:
        """The slide of a file. Raises as `Slide` does."""
        with self._lock:
            slide = self._slides.pop(path, None) or Slide(path)
            self._slides[path] = slide
            if len(self._slides) > OPEN:
                self._slides.popitem(last=False)  # it closes when the last thread is done with it
            return slide


def _open(path: Path) -> LevelReader:
    library = slide_library("openslide")
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if not head:
            raise Unreadable("zero bytes")
        for begin, kind in BEGINS.items():
            if head.startswith(begin):
                raise Unreadable(f"{kind} by its content, no slide")
        if path.suffix.lower() == DICOM:
            _check_series(path.parent)
        try:
            return OpenSlideReader(path)
        except library.OpenSlideUnsupportedFormatError:
            from medfl.data.slides.tiff_reader import TiffReader

            return TiffReader(path)
    except OSError as error:
        raise Unreadable(error.strerror or _reason(error)) from None
    except library.OpenSlideError as error:
        raise Unreadable(f"damaged: {_reason(error)}") from None


def _check_series(folder: Path) -> None:
    """Raise Unreadable where the DICOM files of a folder are those of several slides, of which OpenSlide would read the
    first. Raises OSError."""
    names = set()
    for file in folder.iterdir():
        if file.suffix.lower() == DICOM:
            with file.open("rb") as stream:
                names.update(SERIES.findall(stream.read(HEAD))[:1])
    if len(names) > 1:
        raise Unreadable(
            f"its folder holds .dcm files of {len(names)} slides (DICOM series); give each slide a folder of its own"
        )


_cache: list[Any] = []


def _decoded_tiles() -> Any:
    """The one cache of decoded pixels that all slides share."""
    if not _cache:
        _cache.append(slide_library("openslide").OpenSlideCache(CACHE_BYTES))
    return _cache[0]


def _checked_mpp(mpp: tuple[float, float] | None) -> float | None:
    """Microns per pixel, where they can be true. Raises Unreadable for pixels that are not square."""
    if mpp is None or not all(MPP_RANGE[0] <= value <= MPP_RANGE[1] for value in mpp):
        return None
    if abs(mpp[0] - mpp[1]) > SKEW * max(mpp):
        raise Unreadable(f"its pixels are not square ({mpp[0]:g} x {mpp[1]:g} microns)")
    return math.sqrt(mpp[0] * mpp[1])


def _resized(pixels: U8, shape: tuple[int, int]) -> U8:
    if pixels.shape[:2] == shape:
        return pixels
    import cv2

    way = cv2.INTER_AREA if pixels.shape[0] >= shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, shape[::-1], interpolation=way), dtype=np.uint8)


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
