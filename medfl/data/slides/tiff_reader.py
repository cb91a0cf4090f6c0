"""Tiled TIFFs that OpenSlide refuses, above all OME-TIFF, read tile by tile with tifffile."""

from __future__ import annotations

import io
import logging
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_library import slide_library
from medfl.data.slides.xml_text import parse_xml

JPEG = 7
SCANNERS = {"svs": "Aperio", "ndpi": "Hamamatsu", "scn": "Leica", "bif": "Ventana", "philips": "Philips"}
"""Whose files OpenSlide reads, so that one that it refuses is not what they wrote."""
UNITS = {"nm": 1e-3, "µm": 1.0, "mm": 1e3, "cm": 1e4}
PYRAMID = "`vips tiffsave SLIDE OUT.tif --tile --pyramid --compression jpeg` writes one that is read"


class TiffReader:
    """The first image of a TIFF and its coarser levels, 8-bit RGB in tiles.

    Raises Unreadable for anything else, saying what it is.
    """

    def __init__(self, path: Path) -> None:
        tifffile = slide_library("tifffile")
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is said once, below
        try:
            self._file = tifffile.TiffFile(path)
            scanner = next((kind for kind in SCANNERS if getattr(self._file, f"is_{kind}")), None)
            if scanner:
                raise Unreadable(f"damaged: a slide of {SCANNERS[scanner]}, cut short or changed")
            series = self._file.series[0]
            self._pages = [level.keyframe for level in series.levels]
            metadata = self._file.ome_metadata
        except OSError:
            raise
        except (tifffile.TiffFileError, ValueError, KeyError, IndexError, TypeError, struct.error) as error:
            raise Unreadable(f"no slide that OpenSlide or tifffile can open ({error})") from None
        first = self._pages[0]
        if series.ndim != 3 or first.shape[2:] != (3,) or first.dtype != np.uint8:
            shape = " x ".join(map(str, series.shape))
            raise Unreadable(f"a TIFF of {shape} values of type {first.dtype}; slides are 8-bit RGB of one plane")
        if not first.is_tiled:
            height, width = first.shape[:2]
            raise Unreadable(f"a TIFF of {width:,} x {height:,} pixels without tiles and pyramid; {PYRAMID}")
        self._lock = threading.Lock()
        self.dimensions: Sequence[tuple[int, int]] = [(int(page.shape[1]), int(page.shape[0])) for page in self._pages]
        self.mpp: tuple[float, float] | None = _ome_mpp(metadata) if metadata else None
        self.origin: tuple[int, int] = (0, 0)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> U8:
        """Pixels of a level from level-0 pixel (x, y) on, white beyond the image."""
        page = self._pages[level]
        left = x * self.dimensions[level][0] // self.dimensions[0][0]
        top = y * self.dimensions[level][1] // self.dimensions[0][1]
        tall, wide = page.tilelength, page.tilewidth
        across = -(-page.imagewidth // wide)
        pixels = np.full((height, width, 3), 255, np.uint8)
        for row in range(max(top, 0) // tall, -(-min(top + height, page.imagelength) // tall)):
            for column in range(max(left, 0) // wide, -(-min(left + width, page.imagewidth) // wide)):
                tile = self._tile(page, row * across + column)
                at_y, at_x = row * tall - top, column * wide - left
                rows, columns = slice(max(at_y, 0), at_y + tile.shape[0]), slice(max(at_x, 0), at_x + tile.shape[1])
                part = pixels[rows, columns]
                part[:] = tile[max(-at_y, 0) :, max(-at_x, 0) :][: part.shape[0], : part.shape[1]]
        return pixels

    def _tile(self, page: Any, index: int) -> U8:
        """One tile, cut where the image ends."""
        with self._lock:
            self._file.filehandle.seek(page.dataoffsets[index])
            data = self._file.filehandle.read(page.databytecounts[index])
        if page.compression == JPEG and not page.jpegtables:
            from PIL import Image

            tile = np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))
        else:
            try:
                tile = page.decode(data, index, jpegtables=page.jpegtables)[0]
            except (KeyError, zlib.error, ValueError, TypeError) as error:
                name = getattr(page.compression, "name", page.compression)
                raise Unreadable(f"compressed as {name}, which cannot be decoded ({error}); {PYRAMID}") from None
            if tile is None:
                return np.full((page.tilelength, page.tilewidth, 3), 255, np.uint8)
            tile = np.asarray(tile).reshape((*np.asarray(tile).shape[-3:-1], 3))
        across = -(-page.imagewidth // page.tilewidth)
        row, column = divmod(index, across)
        rows = min(page.tilelength, page.imagelength - row * page.tilelength)
        return np.asarray(tile[:rows, : page.imagewidth - column * page.tilewidth], dtype=np.uint8)


def _ome_mpp(metadata: str) -> tuple[float, float] | None:
    """Microns per pixel along x and y of the first image that an OME-XML describes."""
    try:
        pixels = next(node for node in parse_xml(metadata.encode()).iter() if node.tag.rpartition("}")[2] == "Pixels")
        sizes = [
            float(pixels.attrib[f"PhysicalSize{axis}"]) * UNITS[pixels.get(f"PhysicalSize{axis}Unit", "µm")]
            for axis in "XY"
        ]
    except (Unreadable, StopIteration, KeyError, ValueError):
        return None
    return sizes[0], sizes[1]
