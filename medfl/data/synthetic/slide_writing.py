"""Generated slides on the disk: pyramidal TIFFs for OpenSlide, QuPath's GeoJSON beside each, and `slides.csv`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from medfl import config
from medfl.data.optics import U8
from medfl.data.scratch_folder import making
from medfl.data.slides.slide_library import slide_library
from medfl.data.slides.slide_table import SLIDES_CSV
from medfl.data.synthetic.slide_drawing import DrawnSlide, Island, draw_slide
from medfl.data.synthetic.tissue import class_index
from medfl.data.table_file import open_table
from medfl.errors import MedflError

VERSION = 1  # part of the digest; raise it whenever the drawing changes
SECOND_SCANNER = 0.88  # its microns per pixel, in those of the first
LEVEL_STEP = 4
SMALLEST = 256  # pixels of the longer side below which there is no further level
TILE = 256
WORKERS = 2


def write_slides(cache: Path, classes: Sequence[str], settings: config.DrawnSlides) -> Path:
    """The folder of generated slides in the cache, drawn first where it is not there; it appears whole or not at all.

    Patient k of class k modulo their number has one slide; every second one is of the second scanner. Raises MedflError
    for a class that cannot be drawn, an extra that is not installed and a cache that cannot be written.
    """
    for label in classes:
        class_index(label)
    slide_library("tifffile")
    facts = json.dumps([VERSION, list(classes), settings.model_dump()])
    folder = cache / f"tissue-slides-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    try:
        with making(folder) as draft:
            _fill(draft, classes, settings)
    except OSError as error:
        raise MedflError(
            f"generated slides cannot be written to {folder} ({error.strerror}); name another folder under `data.cache`"
        ) from None
    return folder


def _fill(folder: Path, classes: Sequence[str], settings: config.DrawnSlides) -> None:
    import cv2

    digits = len(str(settings.patients))
    names = [f"patient-{number + 1:0{digits}d}" for number in range(settings.patients)]

    def draw(number: int) -> None:
        mpp = settings.mpp * (SECOND_SCANNER if number % 2 else 1.0)
        label = classes[number % len(classes)]
        slide = draw_slide(label, classes, settings.seed, number, settings.width, mpp)
        write_pyramid(folder / f"{names[number]}.tif", slide.pixels, slide.mpp)
        (folder / f"{names[number]}.geojson").write_text(json.dumps(_collection(slide)), encoding="utf-8")

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # slides side by side use the cores better than cv2's threads within one
    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(draw, range(settings.patients)))
    finally:
        cv2.setNumThreads(threads)
    with open_table(folder / SLIDES_CSV, ("slide", "patient", "label")) as table:
        for number, name in enumerate(names):
            table.writerow([f"{name}.tif", name, classes[number % len(classes)]])


def write_pyramid(path: Path, pixels: U8, mpp: float) -> None:
    """Write pixels u8[h, w, 3] as a tiled TIFF with coarser levels, its resolution in the tags of each."""
    import cv2

    with slide_library("tifffile").TiffWriter(path) as writer:
        level, per_centimetre, coarser = pixels, 1e4 / mpp, False
        while True:
            writer.write(
                level,
                tile=(TILE, TILE),
                compression="zlib",
                predictor=True,
                compressionargs={"level": 1},
                photometric="rgb",
                resolution=(per_centimetre, per_centimetre),
                resolutionunit="CENTIMETER",
                subfiletype=int(coarser),
                metadata=None,
                software=False,
            )
            if max(level.shape) // LEVEL_STEP < SMALLEST:
                return
            shape = (level.shape[1] // LEVEL_STEP, level.shape[0] // LEVEL_STEP)
            level = np.asarray(cv2.resize(level, shape, interpolation=cv2.INTER_AREA), dtype=np.uint8)
            per_centimetre, coarser = per_centimetre / LEVEL_STEP, True


def _collection(slide: DrawnSlide) -> dict[str, Any]:
    """The islands as QuPath exports annotations."""
    return {"type": "FeatureCollection", "features": [_feature(island, slide.mpp) for island in slide.islands]}


def _feature(island: Island, mpp: float) -> dict[str, Any]:
    outlines = [outline for outline in (island.outline, island.hole) if outline is not None]
    rings = [np.round(np.vstack([outline, outline[:1]]) / mpp, 2).tolist() for outline in outlines]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {"objectType": "annotation", "classification": {"name": island.label, "color": [200, 0, 0]}},
    }
