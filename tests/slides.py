"""Slides that several tests read: generated ones, drawn once a session, and pyramids of given pixels."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from medfl.config import DrawnSlides
from medfl.data.optics import to_grey
from medfl.data.synthetic.slide_writing import write_pyramid, write_slides

CLASSES = ["colon_n", "colon_aca"]
SETTINGS = {"patients": 14, "width": 600, "mpp": 2.0}
DATA = {"source": "slides", "size": 32, "mpp": 2.0}


def generated() -> Path:
    """A folder of generated slides in the suite's cache, `cache()`."""
    return write_slides(cache(), CLASSES, DrawnSlides(**SETTINGS))


def cache() -> Path:
    """The cache of the whole suite."""
    return Path(os.environ["MEDFL_SESSION_CACHE"])


def tissue(height: int, width: int, *boxes: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
    """White glass with boxes (x, y, width, height) of something pink and uneven, u8[height, width, 3]."""
    density = np.zeros((height, width, 3), np.float32)
    rng = np.random.default_rng(seed)
    for x, y, across, down in boxes:
        grain = np.kron(rng.uniform(0.6, 1.4, (-(-down // 8), -(-across // 8))), np.ones((8, 8)))[:down, :across]
        density[y : y + down, x : x + across] = grain[:, :, None] * np.array([0.3, 0.7, 0.3])
    return to_grey(density)


def pyramid(path: Path, pixels: np.ndarray, mpp: float = 1.0) -> Path:
    """A slide of these pixels."""
    write_pyramid(path, pixels, mpp)
    return path


def feature(word: str | None, *rings: list[tuple[float, float]], **facts: Any) -> dict[str, Any]:
    """An annotation as QuPath writes it, its rings not closed."""
    properties = {"objectType": "annotation", **({"classification": {"name": word}} if word else {}), **facts}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]},
        "properties": properties,
    }


def box(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    """The corners of a rectangle."""
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def annotate(slide: Path, *features: dict[str, Any]) -> Path:
    """Write features beside a slide."""
    path = slide.with_suffix(".geojson")
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path
