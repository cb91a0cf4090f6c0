"""The histology of the five LC25000 classes: what is drawn where, and which nuclei look how."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from medfl.data.synthetic.canvas import SPAN, Canvas, Field, Nucleus, Points, Range, Values

LYMPHOCYTE = Nucleus(0.037, (0.85, 0.95), dark=(1.5, 2.1), rough=0.03)
FIBROBLAST = Nucleus(0.066, (0.24, 0.32), spread=0.2, dark=(1.0, 1.8), pale=(0, 0.3))
PNEUMOCYTE = Nucleus(0.058, (0.45, 0.6), spread=0.2, dark=(1.2, 2.0), pale=(0, 0.4))
MACROPHAGE = Nucleus(0.045, (0.75, 0.85), dark=(1.2, 1.7), rough=0.1)
CRYPT = Nucleus(0.049, (0.65, 0.75), dark=(1.1, 1.8), pale=(0, 0.5))
PENCIL = Nucleus(0.086, (0.38, 0.6), spread=0.15, dark=(1.1, 1.8), pale=(0, 0.5), nucleoli=0.2)
ACINAR = Nucleus(0.084, (0.6, 0.85), spread=0.2, dark=(1.0, 1.9), pale=(0.1, 0.6), rough=0.07, nucleoli=0.5)
SQUAMOUS = Nucleus(0.076, (0.6, 0.85), spread=0.2, dark=(1.0, 1.9), pale=(0.1, 0.6), rough=0.07, nucleoli=0.45)
DEBRIS = Nucleus(0.022, (0.7, 0.9), spread=0.3, dark=(1.2, 2.2))


def _stroma(s: Canvas) -> float:
    """Collagen over the whole tile: pink wavy fibres, pale gaps, some blood. Returns the fibres' direction."""
    rng = s.rng
    angle = rng.uniform(0, np.pi)
    bend = rng.uniform(0.04, 0.12)
    coarse = s.streaks(angle, rng.uniform(0.025, 0.05), rng.uniform(0.2, 0.4), bend)
    fine = s.streaks(angle + rng.normal(0, 0.2), 0.011, 0.14, bend)
    broad = s.noise(0.3, 3)
    gaps = 1 / (1 + np.exp(3.5 * (coarse + 0.6 * fine + 0.4 * broad + rng.uniform(0.9, 2.2))))
    s.e = np.maximum(rng.uniform(0.3, 0.44) + 0.07 * coarse + 0.07 * fine + 0.06 * broad, 0.05) * (1 - 0.9 * gaps)
    s.h = np.maximum(0.09 + 0.025 * fine + 0.03 * broad, 0) * (1 - gaps)
    return angle


def _stroma_cells(s: Canvas, region: Field, angle: float, spacing: float, inflamed: Range) -> None:
    """Fibroblasts along the fibres, lymphocytes in crowds, sometimes a vessel's red cells, within a region (0..1)."""
    rng = s.rng
    points = s.scatter(spacing, 0.6)
    points = points[s.at(region, points) > rng.uniform(0.4, 1.2, len(points))]
    tilt = angle + rng.normal(0, 0.3, len(points))
    s.nuclei(points, FIBROBLAST, tilt)
    crowd = s.noise(0.35)
    blood = s.scatter(0.042, 0.5)
    blood = blood[(s.at(region, blood) > 0.9) & (s.at(crowd, blood) < -rng.uniform(1.3, 3.2))]
    _red_cells(s, blood)
    points = s.scatter(0.05, 0.6)
    wanted = s.at(crowd, points) + rng.normal(0, 0.5, len(points)) > rng.uniform(*inflamed)
    points = s.apart(points[wanted & (s.at(region, points) > 0.7)], 0.03)
    s.nuclei(points, LYMPHOCYTE)


def _red_cells(s: Canvas, points: Points) -> None:
    axes = s.axes(len(points), 0.037, 0.8, 0.1)
    discs = s.filled(s.outlines(points, axes, s.rng.uniform(0, np.pi, len(points)), 0.05))
    s.cover(discs, 0.03, 1.05 + 0.1 * s.noise(0.03))


def _varied(rng: np.random.Generator, spread: float) -> float:
    """A factor around 1, log-normally spread."""
    return math.exp(rng.normal(0, spread))


def edge(s: Canvas, share: Range) -> Field:
    """A wavy half plane that covers a random share of the tile, as a mask."""
    x, y = s.places()
    turn = s.rng.uniform(0, 2 * np.pi)
    slope = x * np.float32(math.cos(turn)) + y * np.float32(math.sin(turn)) + 0.08 * s.noise(0.5, 3)
    return np.clip((slope - float(np.quantile(slope[::4, ::4], 1 - s.rng.uniform(*share)))) / 0.015, 0, 1)


def _cytoplasm(s: Canvas, mask: Field) -> None:
    grain = s.noise(0.035, 3)
    s.cover(mask, s.rng.uniform(0.2, 0.35) + 0.05 * grain, s.rng.uniform(0.36, 0.46) + 0.06 * grain)


def _glands(s: Canvas, lumina: Field, thick: float, debris: Field) -> tuple[Field, Field]:
    """Epithelium of a thickness around lumina. Returns depth below the lumen and the epithelium's mask."""
    depth = s.distance(lumina) + 0.012 * s.noise(0.14, 2)
    wall = np.clip((thick - depth) / 0.012, 0, 1)
    _cytoplasm(s, wall)
    s.cover(s.soft(lumina, 0.005), 0.02 + 0.12 * debris, 0.03 + 0.38 * debris)
    return depth, wall


def _lung_aca(s: Canvas) -> None:
    """Uneven layers of large, open nuclei around acini in a desmoplastic stroma; some solid, some along septa."""
    rng = s.rng
    zoom = _varied(rng, 0.16)
    pattern = rng.choice(["acinar", "solid", "lepidic"], p=[0.54, 0.26, 0.2])
    if pattern == "lepidic":
        angle, wall, into = _parenchyma(s, rng.uniform(0.12, 0.26))
        depth = np.where(wall > 0.5, into, 0)
        lining = np.clip((0.075 * zoom - depth) / 0.012, 0, 1) * wall
        _cytoplasm(s, lining)
        _stroma_cells(s, np.clip((depth - 0.08) / 0.02, 0, 1), angle, 0.09, (0.2, 1.8))
        points = s.along(-depth, -0.035 * zoom, 0.085 * zoom)
    else:
        angle = _stroma(s)
        spacing = rng.uniform(0.36, 0.52)
        centres = s.scatter(spacing, 0.5)
        centres = centres[rng.uniform(size=len(centres)) < rng.uniform(0.7, 1.0)]
        n = len(centres)
        radius = spacing * (rng.uniform(0.05, 0.34, n) if pattern == "acinar" else rng.uniform(0.01, 0.08, n))
        axes = np.stack([radius, radius * rng.uniform(0.45, 1.0, n)], axis=1)
        lumina = s.filled(s.outlines(centres, axes, rng.uniform(0, np.pi, n), 0.22, corners=40))
        thick = rng.uniform(0.10, 0.16) * zoom
        debris = np.clip(s.noise(0.08, 3) - rng.uniform(0.0, 1.8), 0, 1.5)
        depth, wall = _glands(s, lumina, thick, debris)
        _stroma_cells(s, 1 - wall, angle, 0.09, (0.2, 1.8))
        rows = [s.along(depth, 0.5 * thick, 0.085 * zoom), s.along(depth, 0.8 * thick, 0.1 * zoom)]
        points = np.concatenate(rows)
    points = s.apart(points, 0.06 * zoom)
    tilt = s.uphill(depth, points) + rng.normal(0, 0.5, len(points))
    s.nuclei(points, ACINAR, tilt, zoom)


def _colon_aca(s: Canvas) -> None:
    """Crowded long glands of pencil-shaped nuclei in several rows, dirty lumina, little stroma."""
    rng = s.rng
    zoom = _varied(rng, 0.16)
    angle = _stroma(s)
    spacing = rng.uniform(0.40, 0.56)
    centres = s.scatter(spacing, 0.45)
    n = len(centres)
    radius = spacing * rng.uniform(0.2, 0.55, n) * rng.choice([0.25, 1.0], p=[0.2, 0.8])
    axes = np.stack([radius, radius * rng.uniform(0.15, 0.5, n)], axis=1)
    tilt = rng.uniform(0, np.pi) + rng.normal(0, 0.5, n)
    lumina = s.filled(s.outlines(centres, axes, tilt, 0.2, corners=40))
    thick = rng.uniform(0.13, 0.18) * zoom
    debris = np.clip(s.noise(0.07, 3) - rng.uniform(-0.5, 1.0), 0, 1.5)
    depth, wall = _glands(s, lumina, thick, debris)
    _stroma_cells(s, 1 - wall, angle, 0.09, (0.0, 1.5))
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
    zoom = _varied(rng, 0.16)
    angle = _stroma(s)
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

    keratin = _keratin(s, nest, depth)
    _stroma_cells(s, (1 - nest) * (1 - cleft), angle, 0.09, (0.0, 1.6))
    inside = (s.at(nest, points) > 0.8) & (s.at(keratin, points) < rng.uniform(0.2, 0.7, len(points)))
    points = points[inside] + rng.normal(0, 0.008, (inside.sum(), 2))
    tilt = s.uphill(depth, points) + np.pi / 2 + rng.normal(0, 0.6, len(points))
    s.nuclei(points, SQUAMOUS, tilt, zoom)


def _keratin(s: Canvas, nest: Field, depth: Field) -> Field:
    """Draw concentric whorls at deep places of the nests; returns where they are."""
    rng = s.rng
    x, y = s.places()
    whorls = s.plain(0)
    for _ in range(rng.poisson(1.0)):
        deep = s.scatter(0.15, 0.5)
        deep = deep[s.at(depth, deep) > 0.07]
        if not len(deep):
            break
        cx, cy = deep[rng.integers(len(deep))].tolist()
        turn, flat = rng.uniform(0, np.pi), rng.uniform(1, 1.8)
        u = (x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)
        v = (y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)
        size = rng.uniform(0.09, 0.2)
        away = np.sqrt(u * u + (flat * v) ** 2) + 0.02 * s.noise(0.16, 3)
        mask = np.clip((size - away) / (0.4 * size), 0, 1) * nest
        layers = np.sin(away * np.float32(2 * np.pi / 0.032) + 1.5 * s.noise(0.1)) * s.noise(0.12)
        s.cover(mask, 0.08, 0.8 + 0.12 * layers + 0.08 * s.noise(0.03, 2))
        whorls = np.maximum(whorls, mask)
    return whorls


def _parenchyma(s: Canvas, thick: float) -> tuple[float, Field, Field]:
    """Air spaces between septa of a thickness. Returns the fibres' direction, the septa's mask and depth in them."""
    rng = s.rng
    x, y = s.places()
    warp = rng.uniform(0.03, 0.07)
    x, y = x + warp * s.noise(0.35, 2), y + warp * s.noise(0.35, 2)
    nearest, second = s.plain(9), s.plain(9)
    for a, b in s.scatter(rng.uniform(0.32, 0.64), 0.45).astype(np.float32):
        away = (x - a) ** 2 + (y - b) ** 2
        second = np.minimum(second, np.maximum(nearest, away))
        nearest = np.minimum(nearest, away)
    gap = np.sqrt(second) - np.sqrt(nearest)
    wall = np.clip((thick * (1 + 0.5 * s.noise(0.5)) - gap) / 0.02, 0, 1)
    if rng.uniform() < 0.4:
        wall = np.maximum(wall, edge(s, (0.15, 0.6)))
    depth = s.distance(1 - wall)
    angle = _stroma(s)
    e, h = s.e, s.h
    s.e, s.h = s.plain(0.02), s.plain(0.015)
    soft = s.soft(wall, 0.004)
    s.cover(soft, h + 0.04, e + 0.05)
    s.cover(np.clip(1 - np.abs(depth - 0.006) / 0.008, 0, 1) * soft * 0.6, 0.12, 0.6)
    return angle, wall, depth


def _lung_n(s: Canvas) -> None:
    """Air spaces between thin septa with flat nuclei, capillaries, red cells and a few macrophages."""
    rng = s.rng
    angle, wall, depth = _parenchyma(s, rng.uniform(0.05, 0.18))
    _stroma_cells(s, np.clip((depth - 0.03) / 0.02, 0, 1), angle, 0.1, (0.2, 1.8))
    blood = s.noise(0.5)
    points = s.scatter(0.045, 0.5)
    within = (s.at(depth, points) > 0.012) & (s.at(blood, points) > rng.uniform(0.5, 1.8))
    spilt = (s.at(wall, points) < 0.05) & (s.at(blood, points) > rng.uniform(1.0, 2.6))
    _red_cells(s, s.apart(points[within | spilt], 0.028))
    points = s.along(-depth, -0.016, 0.075, 0.3)
    points = s.apart(points[rng.uniform(size=len(points)) < rng.uniform(0.6, 1.0)], 0.045)
    tilt = s.uphill(depth, points) + np.pi / 2 + rng.normal(0, 0.3, len(points))
    zoom = _varied(rng, 0.16)
    s.nuclei(points, PNEUMOCYTE, tilt, zoom)
    points = s.scatter(0.12, 0.6)
    points = rng.permutation(points[s.at(wall, points) < 0.02])[: rng.poisson(1.5)]
    bodies = s.outlines(points, s.axes(len(points), 0.1, 0.85, 0.15), rng.uniform(0, np.pi, len(points)), 0.08)
    s.cover(s.filled(bodies), 0.16, 0.34 + 0.1 * s.noise(0.03, 2))
    s.nuclei(points + rng.normal(0, 0.012, points.shape), MACROPHAGE)


def _colon_n(s: Canvas) -> None:
    """Round crypts: a ring of orderly basal nuclei, petals of pale goblet cells, a small lumen; cellular stroma."""
    rng = s.rng
    angle = _stroma(s)
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
    _stroma_cells(s, around, angle, 0.11, (-0.9, 0.6))
    s.cover(np.clip(s.soft(crypts, 0.012) * 2.2, 0, 1) * 0.5, 0.05, 0.45)
    _cytoplasm(s, crypts)

    full = rng.uniform(0.55, 1.0) if rng.uniform() < 0.8 else rng.uniform(0.15, 0.5)
    goblets, basal = [], []
    for centre, (a, b), turn in zip(centres, axes, turns, strict=True):
        girth = np.pi * (a + b)
        petals = max(6, round(0.6 * girth / 0.085))
        place, facing = _ring(rng, petals, 0.58, centre, a, b, turn)
        shape = np.tile([0.27 * min(a, b), 0.6 * girth / petals * 0.46], (petals, 1))
        shape *= np.exp(rng.normal(0, 0.1, (petals, 1)))
        goblets.append(np.column_stack([place, facing, shape])[rng.uniform(size=petals) < full])
        nuclei = round(0.9 * girth / 0.046)
        basal.append(np.column_stack(_ring(rng, nuclei, 0.9, centre, a, b, turn)))
    cells = np.concatenate(goblets)
    mucin = s.filled(s.outlines(cells[:, :2], cells[:, 3:], cells[:, 2], 0.05, corners=24, taper=0.5))
    haze = s.noise(0.03, 2)
    s.cover(s.soft(mucin, 0.004) * 0.95, 0.07 + 0.03 * haze, 0.05 + 0.02 * haze)
    lumen = s.filled(s.outlines(centres, axes * rng.uniform(0.05, 0.18, (n, 1)), turns, 0.25, corners=24))
    s.cover(lumen, 0.02, 0.03)
    ring = np.concatenate(basal)
    s.nuclei(ring[:, :2], CRYPT, ring[:, 2] + rng.normal(0, 0.3, len(ring)))


def _ring(
    rng: np.random.Generator, count: int, share: float, centre: Points, a: float, b: float, turn: float
) -> tuple[Points, Values]:
    """Places around an ellipse at a share of its semi-axes, and the outward directions there (radians)."""
    phase = (np.arange(count) + rng.uniform() + rng.normal(0, 0.12, count)) * 2 * np.pi / count
    c, s = math.cos(turn), math.sin(turn)
    x, y = share * a * np.cos(phase), share * b * np.sin(phase)
    out_x, out_y = np.cos(phase) / a, np.sin(phase) / b
    place = centre + np.stack([x * c - y * s, x * s + y * c], axis=1)
    return place, np.arctan2(out_x * s + out_y * c, out_x * c - out_y * s)


DRAW: dict[str, Callable[[Canvas], None]] = {
    "lung_aca": _lung_aca,
    "lung_n": _lung_n,
    "lung_scc": _lung_scc,
    "colon_aca": _colon_aca,
    "colon_n": _colon_n,
}
