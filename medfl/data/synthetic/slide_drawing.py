"""Generated slides: islands of tissue on glass, one of them around a hole, a stroke of a pen, from a seed.

The islands are drawn as the patches of `tissue` are, in dye amounts, several scenes side by side that fade into each
other; one stain, one pair of dye amounts and one tint of the glass hold for a slide. Lengths are in microns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.data.optics import EOSIN, F32, HAEMATOXYLIN, U8, stain_matrix, to_grey
from medfl.data.synthetic.canvas import FINE, SPAN, Canvas
from medfl.data.synthetic.histology import DRAW

SCENE = 140.0  # microns of a patch side, the unit in which scenes are drawn
FADE = 0.15  # of a scene, in which it goes over into the next one
HEIGHT = 0.7  # of a slide, in widths
ISLANDS = 3
SCENES = 2  # that are drawn for an island
CORNERS = 48
INKS = ((1.7, 1.0, 0.3), (1.4, 0.6, 1.0))  # densities of a blue and a green pen
NORMAL = "n"

Outline = NDArray[np.float64]  # [n, 2] x and y in microns


@dataclass(frozen=True)
class Island:
    """A piece of tissue: its class, its outline, and the outline of a hole in it, if it has one."""

    label: str
    outline: Outline
    hole: Outline | None = None


@dataclass(frozen=True)
class DrawnSlide:
    """One slide: pixels u8[h, w, 3], microns per pixel, its islands."""

    pixels: U8
    mpp: float
    islands: tuple[Island, ...]


def draw_slide(label: str, classes: Sequence[str], seed: int, index: int, width: float, mpp: float) -> DrawnSlide:
    """Slide `index`, which depends on nothing but these arguments.

    Args:
        label: what is wrong with the patient: the class of most islands. The last is normal tissue of the same organ,
            where `classes` has it.
        classes: those that may be drawn.
        seed, index: of the drawing.
        width: microns of the longer side.
        mpp: microns per pixel.
    """
    rng = np.random.default_rng([seed, index, 2])
    normal = f"{label.partition('_')[0]}_{NORMAL}"
    labels = [label] * (ISLANDS - 1) + [normal if normal in classes else label]
    rng.shuffle(labels)
    islands = tuple(_island(rng, name, place, width) for place, name in enumerate(labels))
    shape = round(HEIGHT * width / mpp), round(width / mpp)
    stains = stain_matrix(HAEMATOXYLIN + rng.normal(0, 0.03, 3), EOSIN + rng.normal(0, 0.04, 3))[:2]
    matrix = (np.exp(rng.normal(0, 0.2, 2)).clip(0.6, 1.5)[:, None] * stains).astype(np.float32)
    density = np.zeros((*shape, 3), np.float32) + rng.uniform(0.01, 0.04, 3).astype(np.float32)
    for island in islands:
        _lay(density, island, matrix, rng, mpp)
    if index % 2 == 0:
        _stroke(density, rng, islands[0], INKS[index // 2 % len(INKS)], mpp)
    return DrawnSlide(to_grey(density), mpp, islands)


def _island(rng: np.random.Generator, label: str, place: int, width: float) -> Island:
    """An island within its third of the slide; the middle one has a hole."""
    cell = width / ISLANDS
    radius = rng.uniform(0.36, 0.44) * min(cell, HEIGHT * width)
    centre = np.array([(place + 0.5) * cell, HEIGHT * width * rng.uniform(0.45, 0.55)])
    outline = _blob(rng, centre, radius, 0.06)
    return Island(label, outline, _blob(rng, centre, 0.35 * radius, 0.03) if place == 1 else None)


def _blob(rng: np.random.Generator, centre: Outline, radius: float, rough: float) -> Outline:
    turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    reach = np.full(CORNERS, radius)
    for waves in (2, 3, 4):
        reach += radius * rng.normal(0, rough) * np.cos(waves * turn + rng.uniform(0, 2 * np.pi))
    return np.asarray(centre + reach[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1))


def _lay(density: F32, island: Island, matrix: F32, rng: np.random.Generator, mpp: float) -> None:
    """Add an island's tissue to the slide's density."""
    import cv2

    low = np.floor(island.outline.min(axis=0) / mpp).astype(int).clip(0)
    high = np.minimum(np.ceil(island.outline.max(axis=0) / mpp).astype(int) + 1, density.shape[1::-1])
    columns, rows = high - low
    mask = np.zeros((rows, columns), np.uint8)
    cv2.fillPoly(mask, [np.round(island.outline / mpp - low).astype(np.int32)], 255, cv2.LINE_AA)
    if island.hole is not None:
        cv2.fillPoly(mask, [np.round(island.hole / mpp - low).astype(np.int32)], 0, cv2.LINE_AA)
    cover = (cv2.GaussianBlur(mask, (0, 0), 1.0) / np.float32(255))[:, :, None]
    dyes = _dyes(island.label, rng, int(rows), int(columns), mpp)
    density[low[1] : high[1], low[0] : high[0]] += cover * (dyes @ matrix)


def _dyes(label: str, rng: np.random.Generator, rows: int, columns: int, mpp: float) -> F32:
    """Amounts of the two dyes f32[rows, columns, 2]: two scenes, turned, mirrored and faded into each other."""
    side = round(SPAN * SCENE / mpp)  # pixels of a scene
    step = max(1, round((1 - FADE) * side))
    ramp = np.clip(np.minimum(np.arange(side) + 1, side - np.arange(side)) / max(1, side - step), 0, 1)
    weight = (ramp[:, None] * ramp[None]).astype(np.float32)[:, :, None]
    scenes = [_scene(label, rng, side) for _ in range(SCENES)]
    total = np.zeros((rows + side, columns + side, 2), np.float32)
    weights = np.zeros((rows + side, columns + side, 1), np.float32)
    for top in range(0, rows, step):
        for left in range(0, columns, step):
            scene = np.rot90(scenes[rng.integers(SCENES)], int(rng.integers(4)))[:: rng.choice((-1, 1))]
            total[top : top + side, left : left + side] += weight * scene
            weights[top : top + side, left : left + side] += weight
    return np.asarray((total / np.maximum(weights, 1e-6))[:rows, :columns], dtype=np.float32)


def _scene(label: str, rng: np.random.Generator, side: int) -> F32:
    """One scene of a class, f32[side, side, 2]."""
    import cv2

    canvas = Canvas(rng, max(16, math.ceil(side / SPAN / FINE)))
    DRAW[label](canvas)
    dyes: NDArray[Any] = canvas.soft(np.stack([canvas.h, canvas.e], axis=-1), 0.004)
    return np.asarray(cv2.resize(dyes, (side, side), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _stroke(density: F32, rng: np.random.Generator, island: Island, ink: Sequence[float], mpp: float) -> None:
    """Add the arc that a pathologist drew around a quarter of an island, and over its edge."""
    import cv2

    centre = island.outline.mean(axis=0)
    line = centre + (island.outline - centre)[: CORNERS // 4] * np.linspace(0.95, 1.15, CORNERS // 4)[:, None]
    mask = np.zeros(density.shape[:2], np.uint8)
    thick = max(2, round(0.025 * density.shape[1]))
    cv2.polylines(mask, [np.round(line / mpp).astype(np.int32)], False, 255, thick, cv2.LINE_AA)
    even = 1 + 0.05 * rng.standard_normal()
    density += (mask / np.float32(255))[:, :, None] * np.asarray(ink, np.float32) * np.float32(even)
