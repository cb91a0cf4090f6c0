"""The histology of the five LC25000 classes: what is drawn where, and which nuclei look how."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from medfl.data.synthetic.canvas import SPAN, Canvas, Nucleus
from medfl.data.synthetic.tissue_parts import (
    cytoplasm,
    ellipse_ring,
    glands,
    keratin_whorls,
    lognormal,
    parenchyma,
    red_cells,
    stroma,
    stroma_cells,
)

PNEUMOCYTE = Nucleus(0.058, (0.45, 0.6), spread=0.2, dark=(1.2, 2.0), pale=(0, 0.4))
MACROPHAGE = Nucleus(0.045, (0.75, 0.85), dark=(1.2, 1.7), rough=0.1)
CRYPT = Nucleus(0.049, (0.65, 0.75), dark=(1.1, 1.8), pale=(0, 0.5))
PENCIL = Nucleus(0.086, (0.38, 0.6), spread=0.15, dark=(1.1, 1.8), pale=(0, 0.5), nucleoli=0.2)
ACINAR = Nucleus(0.084, (0.6, 0.85), spread=0.2, dark=(1.0, 1.9), pale=(0.1, 0.6), rough=0.07, nucleoli=0.5)
SQUAMOUS = Nucleus(0.076, (0.6, 0.85), spread=0.2, dark=(1.0, 1.9), pale=(0.1, 0.6), rough=0.07, nucleoli=0.45)
DEBRIS = Nucleus(0.022, (0.7, 0.9), spread=0.3, dark=(1.2, 2.2))


def _lung_aca(s: Canvas) -> None:
    """Uneven layers of large, open nuclei around acini in a desmoplastic stroma; some solid, some along septa."""
    rng = s.rng
    zoom = lognormal(rng, 0.16)
    pattern = rng.choice(["acinar", "solid", "lepidic"], p=[0.54, 0.26, 0.2])
    if pattern == "lepidic":
        angle, wall, into = parenchyma(s, rng.uniform(0.12, 0.26))
        depth = np.where(wall > 0.5, into, 0)
        lining = np.clip((0.075 * zoom - depth) / 0.012, 0, 1) * wall
        cytoplasm(s, lining)
        stroma_cells(s, np.clip((depth - 0.08) / 0.02, 0, 1), angle, 0.09, (0.2, 1.8))
        points = s.along(-depth, -0.035 * zoom, 0.085 * zoom)
    else:
        angle = stroma(s)
        spacing = rng.uniform(0.36, 0.52)
        centres = s.scatter(spacing, 0.5)
        centres = centres[rng.uniform(size=len(centres)) < rng.uniform(0.7, 1.0)]
        n = len(centres)
        radius = spacing * (rng.uniform(0.05, 0.34, n) if pattern == "acinar" else rng.uniform(0.01, 0.08, n))
        axes = np.stack([radius, radius * rng.uniform(0.45, 1.0, n)], axis=1)
        lumina = s.filled(s.outlines(centres, axes, rng.uniform(0, np.pi, n), 0.22, corners=40))
        thick = rng.uniform(0.10, 0.16) * zoom
        debris = np.clip(s.noise(0.08, 3) - rng.uniform(0.0, 1.8), 0, 1.5)
        depth, wall = glands(s, lumina, thick, debris)
        stroma_cells(s, 1 - wall, angle, 0.09, (0.2, 1.8))
        rows = [s.along(depth, 0.5 * thick, 0.085 * zoom), s.along(depth, 0.8 * thick, 0.1 * zoom)]
        points = np.concatenate(rows)
    points = s.apart(points, 0.06 * zoom)
    tilt = s.uphill(depth, points) + rng.normal(0, 0.5, len(points))
    s.nuclei(points, ACINAR, tilt, zoom)


def _colon_aca(s: Canvas) -> None:
    """Crowded long glands of pencil-shaped nuclei in several rows, dirty lumina, little stroma."""
    rng = s.rng
    zoom = lognormal(rng, 0.16)
    angle = stroma(s)
    spacing = rng.uniform(0.40, 0.56)
    centres = s.scatter(spacing, 0.45)
    n = len(centres)
    radius = spacing * rng.uniform(0.2, 0.55, n) * rng.choice([0.25, 1.0], p=[0.2, 0.8])
    axes = np.stack([radius, radius * rng.uniform(0.15, 0.5, n)], axis=1)
    tilt = rng.uniform(0, np.pi) + rng.normal(0, 0.5, n)
    lumina = s.filled(s.outlines(centres, axes, tilt, 0.2, corners=40))
    thick = rng.uniform(0.13, 0.18) * zoom
    debris = np.clip(s.noise(0.07, 3) - rng.uniform(-0.5, 1.0), 0, 1.5)
    depth, wall = glands(s, lumina, thick, debris)
    stroma_cells(s, 1 - wall, angle, 0.09, (0.0, 1.5))
    rows = [s.along(depth, share * thick, step * zoom) for share, step in ((0.42, 0.06), (0.62, 0.05), (0.82, 0.05))]
    points = s.apart(np.concatenate(rows), 0.036 * zoom)
    tilt = s.uphill(depth, points) + rng.normal(0, 0.2, len(points))
    s.nuclei(points, PENCIL, tilt, zoom)
    points = s.scatter(0.045, 0.5)
    points = points[(s.at(lumina * debris, points) > 0.3) & (rng.uniform(size=len(points)) < 0.5)]
    s.nuclei(points, DEBRIS)


def _lung_scc(s: Canvas) -> None:
    """Solid nests of polygonal cells with visible borders; pink whorls of keratin; no lumina."""
    import cv2

    rng = s.rng
    zoom = lognormal(rng, 0.16)
    angle = stroma(s)
    field = s.noise(0.55, 2)
    nest = np.clip((field - float(np.quantile(field[::8, ::8], rng.uniform(0.08, 0.42)))) / 0.06, 0, 1)
    depth = s.distance(1 - nest)
    cleft = np.clip(1 - s.distance(nest) / 0.02, 0, 1) * (1 - nest) * rng.uniform(0, 0.9)
    s.cover(cleft, 0.03, 0.06)

    points = s.scatter(0.096 * zoom)
    pixel = np.clip(np.round(points * s.unit).astype(int), 0, s.width - 1)
    seeds = np.full((s.width, s.width), 255, np.uint8)
    seeds[pixel[:, 1], pixel[:, 0]] = 0
    _, cell = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    x, y = np.meshgrid(*[np.arange(s.width, dtype=np.float32)] * 2)
    sway = np.float32(0.012 * s.unit)
    cell = cv2.remap(
        cell.astype(np.float32), x + sway * s.noise(0.07), y + sway * s.noise(0.07), cv2.INTER_NEAREST
    ).astype(int)
    border = s.plain(0)
    border[1:, 1:] = (cell[1:, 1:] != cell[:-1, 1:]) | (cell[1:, 1:] != cell[1:, :-1])
    border = np.clip(s.soft(border, 0.006) * (0.016 * s.unit), 0, 1)
    tone = rng.standard_normal(cell.max() + 1).astype(np.float32)[cell]
    grain = s.noise(0.03, 3)
    pink = rng.uniform(0.38, 0.55)
    s.cover(
        nest, rng.uniform(0.18, 0.32) + 0.03 * tone + 0.04 * grain, pink + 0.08 * np.maximum(tone, -1) + 0.05 * grain
    )
    if rng.uniform() < 0.3:  # necrosis leaves holes that pass for lumina
        hole = np.clip((s.noise(0.22, 2) - rng.uniform(1.2, 2.2)) / 0.15, 0, 1) * nest
        s.cover(hole, 0.03, 0.08)
        nest = nest * (1 - hole)
    s.cover(nest * border * rng.uniform(0.15, 0.85), 0.08, 0.24)

    keratin = keratin_whorls(s, nest, depth)
    stroma_cells(s, (1 - nest) * (1 - cleft), angle, 0.09, (0.0, 1.6))
    inside = (s.at(nest, points) > 0.8) & (s.at(keratin, points) < rng.uniform(0.2, 0.7, len(points)))
    points = points[inside] + rng.normal(0, 0.008, (inside.sum(), 2))
    tilt = s.uphill(depth, points) + np.pi / 2 + rng.normal(0, 0.6, len(points))
    s.nuclei(points, SQUAMOUS, tilt, zoom)


def _lung_n(s: Canvas) -> None:
    """Air spaces between thin septa with flat nuclei, capillaries, red cells and a few macrophages."""
    rng = s.rng
    angle, wall, depth = parenchyma(s, rng.uniform(0.05, 0.18))
    stroma_cells(s, np.clip((depth - 0.03) / 0.02, 0, 1), angle, 0.1, (0.2, 1.8))
    blood = s.noise(0.5)
    points = s.scatter(0.045, 0.5)
    within = (s.at(depth, points) > 0.012) & (s.at(blood, points) > rng.uniform(0.5, 1.8))
    loose = (s.at(wall, points) < 0.05) & (s.at(blood, points) > rng.uniform(1.0, 2.6))
    red_cells(s, s.apart(points[within | loose], 0.028))
    points = s.along(-depth, -0.016, 0.075, 0.3)
    points = s.apart(points[rng.uniform(size=len(points)) < rng.uniform(0.6, 1.0)], 0.045)
    tilt = s.uphill(depth, points) + np.pi / 2 + rng.normal(0, 0.3, len(points))
    zoom = lognormal(rng, 0.16)
    s.nuclei(points, PNEUMOCYTE, tilt, zoom)
    points = s.scatter(0.12, 0.6)
    points = rng.permutation(points[s.at(wall, points) < 0.02])[: rng.poisson(1.5)]
    bodies = s.outlines(points, s.axes(len(points), 0.1, 0.85, 0.15), rng.uniform(0, np.pi, len(points)), 0.08)
    s.cover(s.filled(bodies), 0.16, 0.34 + 0.1 * s.noise(0.03, 2))
    s.nuclei(points + rng.normal(0, 0.012, points.shape), MACROPHAGE)


def _colon_n(s: Canvas) -> None:
    """Round crypts: a ring of orderly basal nuclei, petals of pale goblet cells, a small lumen; cellular stroma."""
    rng = s.rng
    angle = stroma(s)
    spacing = rng.uniform(0.54, 0.74)
    stretch = math.sqrt(rng.uniform(1.0, 1.45) if rng.uniform() < 0.7 else rng.uniform(1.45, 2.2))
    turn = rng.uniform(0, np.pi)
    axis = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    centres = ((s.scatter(spacing, 0.18) - SPAN / 2) @ axis.T * [stretch, 1 / stretch]) @ axis + SPAN / 2
    n = len(centres)
    radius = spacing * rng.uniform(0.39, 0.46, n)
    axes = np.stack([radius * stretch, radius / stretch], axis=1)
    turns = turn + rng.normal(0, 0.12, n)
    crypts = s.filled(s.outlines(centres, axes, turns, 0.025, corners=48))
    around = 1 - s.soft(crypts, 0.01)
    stroma_cells(s, around, angle, 0.11, (-0.9, 0.6))
    s.cover(np.clip(s.soft(crypts, 0.012) * 2.2, 0, 1) * 0.5, 0.05, 0.45)
    cytoplasm(s, crypts)

    full = rng.uniform(0.55, 1.0) if rng.uniform() < 0.8 else rng.uniform(0.15, 0.5)
    goblets, basal = [], []
    for centre, (a, b), turn in zip(centres, axes, turns, strict=True):
        girth = np.pi * (a + b)
        petals = max(6, round(0.6 * girth / 0.085))
        place, facing = ellipse_ring(rng, petals, 0.58, centre, a, b, turn)
        shape = np.tile([0.27 * min(a, b), 0.6 * girth / petals * 0.46], (petals, 1))
        shape *= np.exp(rng.normal(0, 0.1, (petals, 1)))
        goblets.append(np.column_stack([place, facing, shape])[rng.uniform(size=petals) < full])
        nuclei = round(0.9 * girth / 0.046)
        basal.append(np.column_stack(ellipse_ring(rng, nuclei, 0.9, centre, a, b, turn)))
    cells = np.concatenate(goblets)
    mucin = s.filled(s.outlines(cells[:, :2], cells[:, 3:], cells[:, 2], 0.05, corners=24, taper=0.5))
    haze = s.noise(0.03, 2)
    s.cover(s.soft(mucin, 0.004) * 0.95, 0.07 + 0.03 * haze, 0.05 + 0.02 * haze)
    lumen = s.filled(s.outlines(centres, axes * rng.uniform(0.05, 0.18, (n, 1)), turns, 0.25, corners=24))
    s.cover(lumen, 0.02, 0.03)
    ring = np.concatenate(basal)
    s.nuclei(ring[:, :2], CRYPT, ring[:, 2] + rng.normal(0, 0.3, len(ring)))


DRAW: dict[str, Callable[[Canvas], None]] = {
    "lung_aca": _lung_aca,
    "lung_n": _lung_n,
    "lung_scc": _lung_scc,
    "colon_aca": _colon_aca,
    "colon_n": _colon_n,
}
