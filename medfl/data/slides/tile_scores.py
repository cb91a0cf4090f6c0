"""What a model says of a slide's tiles, to be looked at: GeoJSON that QuPath opens, and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.data.atomic_file import replacing, write_text
from medfl.data.patch_store import U8
from medfl.data.slides.slide_reader import Slide
from medfl.data.slides.tissue_tiles import TissueTiles
from medfl.metrics.palette import LIGHT, SERIES

SIDE = 700  # pixels of a picture's longer side
OPAQUE = 0.85  # of the tile with the largest score
DIGITS = 6

Scores = NDArray[np.floating[Any]]


def rgb(colour: str) -> tuple[int, int, int]:
    """`#2aabff` as three numbers up to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def write_geojson(
    file: Path, tiles: TissueTiles, origin: tuple[int, int], classes: Sequence[str], scores: Mapping[str, Scores]
) -> None:
    """Write a slide's tiles with their scores as QuPath reads objects: tiles of their likeliest class, the scores as
    measurements, which Measure > Show measurement maps draws.

    Args:
        file: where; appears whole or not at all.
        tiles: n tiles.
        origin: level-0 pixel from which QuPath counts.
        classes: whose probabilities are the scores `p_<class>`.
        scores: name -> f[n].

    Raises OSError.
    """
    likeliest = np.argmax([scores[f"p_{name}"] for name in classes], axis=0)
    features = []
    for row, (x, y) in enumerate(zip(tiles.x.tolist(), tiles.y.tolist(), strict=True)):
        left, top = x - origin[0], y - origin[1]
        right, bottom = round(left + tiles.side, 2), round(top + tiles.side, 2)
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        index = int(likeliest[row])
        properties = {
            "objectType": "tile",
            "classification": {"name": classes[index], "color": list(rgb(SERIES[index % len(SERIES)]))},
            "measurements": {name: round(float(values[row]), DIGITS) for name, values in scores.items()},
        }
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    write_text(file, json.dumps({"type": "FeatureCollection", "features": features}))


def heat_map(slide: Slide, tiles: TissueTiles, values: Scores, scale_to: float | None = 1.0) -> U8:
    """A slide, grey and pale, with its tiles the more coloured the larger their score is, u8[h, w, 3].

    Args:
        slide: the slide.
        tiles: n of its tiles.
        values: f[n], 0 and up.
        scale_to: the score of the fullest colour; None takes the largest one.

    Raises Unreadable where the slide is damaged.
    """
    picture, scale = slide.overview(max(slide.width, slide.height) / SIDE)
    grey = picture.mean(axis=2, keepdims=True)
    shown = np.repeat(128 + grey / 2, 3, axis=2)
    hot, most = np.array(rgb(LIGHT["before"])), scale_to or max(float(values.max()), 1e-12)
    for x, y, value in zip(tiles.x.tolist(), tiles.y.tolist(), values.tolist(), strict=True):
        left, top, right, bottom = (round(edge / scale) for edge in (x, y, x + tiles.side, y + tiles.side))
        share = OPAQUE * min(value / most, 1.0)
        part = shown[top : max(bottom, top + 1), left : max(right, left + 1)]
        part[:] = (1 - share) * part + share * hot
    return shown.astype(np.uint8)


def write_picture(file: Path, picture: U8) -> None:
    """Write a picture u8[h, w, 3] as a small PNG, which appears whole or not at all. Raises OSError."""
    from PIL import Image

    with replacing(file) as staged:
        Image.fromarray(picture).quantize(128).save(staged, format="PNG", optimize=True)
