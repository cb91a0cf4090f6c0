"""What tissues of several classes are drawn from: stroma and its cells, glands, air spaces, keratin, edges."""

from __future__ import annotations

import math

import numpy as np

from medfl.data.synthetic.canvas import Canvas, Field, Nucleus, Points, Range, Values

LYMPHOCYTE = Nucleus(0.037, (0.85, 0.95), dark=(1.5, 2.1), rough=0.03)
FIBROBLAST = Nucleus(0.066, (0.24, 0.32), spread=0.2, dark=(1.0, 1.8), pale=(0, 0.3))


def stroma(s: Canvas) -> float:
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


def stroma_cells(s: Canvas, region: Field, angle: float, spacing: float, inflammation: Range) -> None:
    """Fibroblasts along the fibres, lymphocytes in crowds, sometimes a vessel's red cells, within a region (0..1)."""
    rng = s.rng
    points = s.scatter(spacing, 0.6)
    points = points[s.at(region, points) > rng.uniform(0.4, 1.2, len(points))]
    tilt = angle + rng.normal(0, 0.3, len(points))
    s.nuclei(points, FIBROBLAST, tilt)
    crowd = s.noise(0.35)
    blood = s.scatter(0.042, 0.5)
    blood = blood[(s.at(region, blood) > 0.9) & (s.at(crowd, blood) < -rng.uniform(1.3, 3.2))]
    red_cells(s, blood)
    points = s.scatter(0.05, 0.6)
    dense = s.at(crowd, points) + rng.normal(0, 0.5, len(points)) > rng.uniform(*inflammation)
    points = s.apart(points[dense & (s.at(region, points) > 0.7)], 0.03)
    s.nuclei(points, LYMPHOCYTE)


def red_cells(s: Canvas, points: Points) -> None:
    """Draw red blood cells."""
    axes = s.axes(len(points), 0.037, 0.8, 0.1)
    discs = s.filled(s.outlines(points, axes, s.rng.uniform(0, np.pi, len(points)), 0.05))
    s.cover(discs, 0.03, 1.05 + 0.1 * s.noise(0.03))


def lognormal(rng: np.random.Generator, spread: float) -> float:
    """A factor around 1, log-normally spread."""
    return math.exp(rng.normal(0, spread))


def edge(s: Canvas, share: Range) -> Field:
    """A wavy half plane that covers a random share of the tile, as a mask."""
    x, y = s.places()
    turn = s.rng.uniform(0, 2 * np.pi)
    slope = x * np.float32(math.cos(turn)) + y * np.float32(math.sin(turn)) + 0.08 * s.noise(0.5, 3)
    return np.clip((slope - float(np.quantile(slope[::4, ::4], 1 - s.rng.uniform(*share)))) / 0.015, 0, 1)


def cytoplasm(s: Canvas, mask: Field) -> None:
    """Lay grainy cytoplasm over what the mask covers."""
    grain = s.noise(0.035, 3)
    s.cover(mask, s.rng.uniform(0.2, 0.35) + 0.05 * grain, s.rng.uniform(0.36, 0.46) + 0.06 * grain)


def glands(s: Canvas, lumina: Field, thick: float, debris: Field) -> tuple[Field, Field]:
    """Epithelium of a thickness around lumina. Returns depth below the lumen and the epithelium's mask."""
    depth = s.distance(lumina) + 0.012 * s.noise(0.14, 2)
    wall = np.clip((thick - depth) / 0.012, 0, 1)
    cytoplasm(s, wall)
    s.cover(s.soft(lumina, 0.005), 0.02 + 0.12 * debris, 0.03 + 0.38 * debris)
    return depth, wall


def keratin_whorls(s: Canvas, nest: Field, depth: Field) -> Field:
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


def parenchyma(s: Canvas, thick: float) -> tuple[float, Field, Field]:
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
    angle = stroma(s)
    e, h = s.e, s.h
    s.e, s.h = s.plain(0.02), s.plain(0.015)
    soft = s.soft(wall, 0.004)
    s.cover(soft, h + 0.04, e + 0.05)
    s.cover(np.clip(1 - np.abs(depth - 0.006) / 0.008, 0, 1) * soft * 0.6, 0.12, 0.6)
    return angle, wall, depth


def ellipse_ring(
    rng: np.random.Generator, count: int, share: float, centre: Points, a: float, b: float, turn: float
) -> tuple[Points, Values]:
    """Places around an ellipse at a share of its semi-axes, and the outward directions there (radians)."""
    phase = (np.arange(count) + rng.uniform() + rng.normal(0, 0.12, count)) * 2 * np.pi / count
    c, s = math.cos(turn), math.sin(turn)
    x, y = share * a * np.cos(phase), share * b * np.sin(phase)
    out_x, out_y = np.cos(phase) / a, np.sin(phase) / b
    place = centre + np.stack([x * c - y * s, x * s + y * c], axis=1)
    return place, np.arctan2(out_x * s + out_y * c, out_x * c - out_y * s)
