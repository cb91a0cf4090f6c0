"""Generated tissue: haematoxylin-and-eosin patches of the five LC25000 classes, drawn from a seed.

A source tile is drawn as two maps, the amounts of haematoxylin and of eosin at every point, and becomes light by
Beer-Lambert under the reference stain matrix. Lengths are in patch sides, so the scene hardly depends on the
resolution. What separates the classes is architecture and nuclei, not colour: the amounts of both dyes, their exact
hues and the slide's tint vary from tile to tile, tissue edges and blood occur in every class.

Patches are augmented copies of source tiles (rotation up to 25 degrees, flips), as LC25000 was made.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.data.optics import EOSIN, HAEMATOXYLIN, U8, stain_matrix, to_grey
from medfl.errors import MedflError, nearest

TISSUE_CLASSES = ("lung_aca", "lung_n", "lung_scc", "colon_aca", "colon_n")
FILE_STEMS = ("lungaca", "lungn", "lungscc", "colonca", "colonn")  # LC25000's own, in the order of the classes
MANIFEST = "tissue.json"
VERSION = 1  # part of every digest; raise it whenever the drawing changes
TILT = 25.0  # degrees
SPAN = math.cos(math.radians(TILT)) + math.sin(math.radians(TILT))  # a tile's side that covers any tilted patch
FINE = 1.5  # working pixels per tile pixel
SHIFT = 4  # binary digits of sub-pixel position in cv2's polygons
AMOUNT = 80.0  # grey levels per unit of haematoxylin while nuclei are painted in 8 bits

Field = NDArray[Any]  # f32[W, W] over the tile
Points = NDArray[np.float64]  # [n, 2] x and y in patch sides
Values = NDArray[np.float64]  # [n], one per point
Range = tuple[float, float]


@dataclass(frozen=True)
class Nucleus:
    """How the nuclei of one kind of cell look; lengths in patch sides, a range is drawn from."""

    length: float
    ratio: Range  # width to length, one draw a tile
    spread: float = 0.12  # pleomorphism: log-normal spread of the length
    dark: Range = (1.2, 1.9)  # haematoxylin, one draw a nucleus
    pale: Range = (0.0, 0.0)  # share of it missing inside: open chromatin within a crisp membrane
    rough: float = 0.05  # unevenness of the outline
    nucleoli: float = 0.0  # share of nuclei that show one


LYMPHOCYTE = Nucleus(0.037, (0.85, 0.95), dark=(1.5, 2.1), rough=0.03)
FIBROBLAST = Nucleus(0.066, (0.24, 0.32), spread=0.2, dark=(1.0, 1.8), pale=(0, 0.3))
PNEUMOCYTE = Nucleus(0.058, (0.45, 0.6), spread=0.2, dark=(1.2, 2.0), pale=(0, 0.4))
MACROPHAGE = Nucleus(0.045, (0.75, 0.85), dark=(1.2, 1.7), rough=0.1)
CRYPT = Nucleus(0.049, (0.65, 0.75), dark=(1.1, 1.8), pale=(0, 0.5))
PENCIL = Nucleus(0.086, (0.38, 0.6), spread=0.15, dark=(1.1, 1.8), pale=(0, 0.5), nucleoli=0.2)
ACINAR = Nucleus(0.084, (0.6, 0.85), spread=0.2, dark=(1.0, 1.9), pale=(0.1, 0.6), rough=0.07, nucleoli=0.5)
SQUAMOUS = Nucleus(0.076, (0.6, 0.85), spread=0.2, dark=(1.0, 1.9), pale=(0.1, 0.6), rough=0.07, nucleoli=0.45)
DEBRIS = Nucleus(0.022, (0.7, 0.9), spread=0.3, dark=(1.2, 2.2))


class Section:
    """One tile in the making: dye amounts h and e f32[W, W], and the tools to draw them."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.width = round(FINE * tile_side(size))
        self.unit = self.width / SPAN  # working pixels per patch side
        self.h = self.plain(0.0)
        self.e = self.plain(0.0)

    def plain(self, value: float) -> Field:
        """A field of one value."""
        return np.full((self.width, self.width), value, np.float32)

    def places(self) -> tuple[Field, Field]:
        """x [1, W] and y [W, 1] of the pixel centres, in patch sides."""
        line = (np.arange(self.width, dtype=np.float32) + 0.5) / np.float32(self.unit)
        return line[None, :], line[:, None]

    def noise(self, period: float, octaves: int = 1) -> Field:
        """Smooth noise of mean 0 and variance about 1, whose largest features are `period` wide."""
        import cv2

        n = max(3, round(SPAN / period))
        grid: Field = self.rng.standard_normal((n, n), dtype=np.float32)
        for octave in range(1, octaves):
            n *= 2
            detail = self.rng.standard_normal((n, n), dtype=np.float32)
            grid = cv2.resize(grid, (n, n), interpolation=cv2.INTER_CUBIC) + np.float32(0.55**octave) * detail
        variance = 0.6 * sum(0.55 ** (2 * octave) for octave in range(octaves))
        grid *= np.float32(1 / math.sqrt(variance))
        smooth = cv2.INTER_CUBIC if 3 * n < self.width else cv2.INTER_LINEAR  # alike on a fine grid, one is faster
        return cv2.resize(grid, (self.width, self.width), interpolation=smooth)

    def streaks(self, angle: float, across: float, along: float, bend: float) -> Field:
        """Noise stretched along a direction (radians) and bent: fibres `across` wide and `along` long."""
        import cv2

        reach = 1.5 * SPAN
        rows, columns = round(reach / across), max(3, round(reach / along))
        sheet: Field = self.rng.standard_normal((rows, columns), dtype=np.float32) / 0.75
        sheet = cv2.resize(sheet, (256, 256), interpolation=cv2.INTER_CUBIC)
        x, y = self.places()
        x, y = x - SPAN / 2, y - SPAN / 2
        c, s = math.cos(angle), math.sin(angle)
        scale = 256 / reach
        u = ((x * c + y * s) * scale + 128).astype(np.float32)
        v = ((y * c - x * s + bend * self.noise(0.45, 2)) * scale + 128).astype(np.float32)
        return cv2.remap(sheet, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)

    def scatter(self, spacing: float, jitter: float = 0.3) -> Points:
        """A hexagonal lattice, shaken by `jitter` spacings, over the tile and a little beyond."""
        rise = 0.866 * spacing
        columns, rows = math.ceil(SPAN / spacing) + 2, math.ceil(SPAN / rise) + 2
        j, i = np.divmod(np.arange(columns * rows), columns)
        points = np.stack([(i + 0.5 * (j % 2)) * spacing, j * rise], axis=1)
        points -= self.rng.uniform(0.5, 1.5, 2) * spacing
        points += self.rng.normal(0, 0.6 * jitter * spacing, points.shape)
        return points[np.all((points > -0.5 * spacing) & (points < SPAN + 0.5 * spacing), axis=1)]

    def along(self, field: Field, level: float, spacing: float, jitter: float = 0.2) -> Points:
        """Points on the contour field == level, `spacing` apart: a row of nuclei at one depth of an epithelium."""
        import cv2

        contours, _ = cv2.findContours((field < level).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        rows = [np.empty((0, 2))]
        for contour in contours:
            line = contour[:, 0].astype(np.float64) / self.unit
            if len(line) > spacing * self.unit:
                step = max(1, round(spacing * self.unit / 1.2))  # 1.2: mean step of an 8-connected contour
                rows.append(line[self.rng.integers(step) :: step])
        points = np.concatenate(rows)
        inside = np.all((points > 0.012) & (points < SPAN - 0.012), axis=1)  # not the tile's own frame
        points = points[inside]
        return points + self.rng.normal(0, jitter * spacing, points.shape)

    def at(self, field: Field, points: Points) -> Values:
        """The field's values at points, [n]; points beyond the tile read its edge."""
        column, row = np.clip((points * self.unit).astype(int), 0, self.width - 1).T
        return np.asarray(field[row, column], dtype=np.float64)

    def uphill(self, field: Field, points: Points) -> Values:
        """Direction (radians) in which a field grows at points, [n]."""
        import cv2

        soft = cv2.GaussianBlur(field, (0, 0), 0.02 * self.unit)
        return np.arctan2(
            self.at(cv2.Sobel(soft, cv2.CV_32F, 0, 1), points), self.at(cv2.Sobel(soft, cv2.CV_32F, 1, 0), points)
        )

    def distance(self, mask: Field) -> Field:
        """Distance of every point from the mask, in patch sides; 0 within it."""
        import cv2

        return cv2.distanceTransform((mask < 0.5).astype(np.uint8), cv2.DIST_L2, 3) / np.float32(self.unit)

    def soft(self, field: Field, sigma: float) -> Field:
        """The field out of focus: blurred by `sigma` patch sides."""
        import cv2

        return cv2.GaussianBlur(field, (0, 0), sigma * self.unit)

    def cover(self, mask: Field, h: Field | float, e: Field | float) -> None:
        """Lay a tissue of dye amounts h and e over what is there, where the mask (0..1) says so."""
        self.h += mask * (np.maximum(h, 0) - self.h)
        self.e += mask * (np.maximum(e, 0) - self.e)

    def outlines(
        self,
        centres: Points,
        axes: Points,
        angles: Values,
        rough: float,
        corners: int = 16,
        taper: float = 0,
    ) -> NDArray[np.int32]:
        """Uneven ellipses as polygons in cv2's fixed point, i32[n, corners, 2]; semi-axes in patch sides.

        rough: relative size of the harmonics 2 to 5 of the radius; taper: how much wider the far end is.
        """
        n = len(centres)
        turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        order = np.arange(2, 6)[:, None, None]
        waves = np.cos(order * turn + self.rng.uniform(0, 2 * np.pi, (4, n, 1)))
        radius = 1 + (rough / (order - 1) * self.rng.normal(size=(4, n, 1)) * waves).sum(axis=0)
        x = radius * np.cos(turn) * axes[:, :1]
        y = radius * np.sin(turn) * axes[:, 1:] * (1 + taper * np.cos(turn))
        c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
        shape = np.stack([x * c - y * s, x * s + y * c], axis=-1) + centres[:, None]
        return np.round(shape * self.unit * (1 << SHIFT)).astype(np.int32)

    def filled(self, polygons: NDArray[np.int32]) -> Field:
        """The union of polygons as a mask f32[W, W] with smooth edges."""
        import cv2

        mask = np.zeros((self.width, self.width), np.uint8)
        for polygon in polygons:
            cv2.fillPoly(mask, [polygon], 255, cv2.LINE_AA, SHIFT)
        return mask.astype(np.float32) / 255

    def axes(self, n: int, length: float, ratio: float, spread: float) -> Points:
        """Semi-axes [n, 2] of bodies `length` long and `ratio` as wide, log-normally spread."""
        long = 0.5 * length * np.exp(self.rng.normal(0, spread, n))
        return np.stack([long, long * np.clip(ratio * np.exp(self.rng.normal(0, 0.12, n)), 0.25, 1)], axis=1)

    def apart(self, points: Points, gap: float) -> Points:
        """Drop every point closer than `gap` to one kept before it."""
        x, y = points.T.astype(np.float32)
        close = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 < gap * gap
        keep = np.ones(len(points), bool)
        for k in range(len(points)):
            if keep[k]:
                keep[k + 1 :] &= ~close[k, k + 1 :]
        return points[keep]

    def nuclei(
        self,
        centres: Points,
        kind: Nucleus,
        angles: Values | None = None,
        zoom: float = 1.0,
    ) -> None:
        """Draw nuclei of a kind, `zoom` times as large, at random angles (radians) unless told."""
        import cv2

        rng, n = self.rng, len(centres)
        if angles is None:
            angles = rng.uniform(0, np.pi, n)
        axes = self.axes(n, kind.length * zoom, rng.uniform(*kind.ratio), kind.spread)
        polygons = self.outlines(centres, axes, angles, kind.rough)
        amount = rng.uniform(*kind.dark, n)
        inner = amount * (1 - rng.uniform(*kind.pale, n))
        rim_level = np.minimum(amount * AMOUNT, 255).astype(int).tolist()
        inner_level = np.minimum(inner * AMOUNT, 255).astype(int).tolist()
        fixed = self.unit * (1 << SHIFT)
        spot = np.round((centres + rng.normal(0, 0.22, (n, 2)) * axes) * fixed).astype(int).tolist()
        spot_radius = np.round(axes[:, 1] * rng.uniform(0.2, 0.32, n) * fixed).astype(int).tolist()
        has_spot = rng.uniform(size=n) < kind.nucleoli
        membrane = max(1, round(0.006 * self.unit))
        body = np.zeros((self.width, self.width), np.uint8)
        paint = np.zeros((self.width, self.width), np.uint8)
        for k, polygon in enumerate(polygons):
            cv2.fillPoly(body, [polygon], 255, cv2.LINE_AA, SHIFT)
            cv2.fillPoly(paint, [polygon], inner_level[k], cv2.LINE_AA, SHIFT)
            if rim_level[k] > inner_level[k]:
                cv2.polylines(paint, [polygon], True, rim_level[k], membrane, cv2.LINE_AA, SHIFT)
            if has_spot[k]:
                cv2.circle(paint, spot[k], spot_radius[k], rim_level[k], -1, cv2.LINE_AA, SHIFT)
        chromatin = 1 + np.float32(0.2) * self.noise(0.014)
        self.cover(body.astype(np.float32) / 255, paint.astype(np.float32) / np.float32(AMOUNT) * chromatin, 0.22)


def _stroma(s: Section) -> float:
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


def _stroma_cells(s: Section, region: Field, angle: float, spacing: float, inflamed: Range) -> None:
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


def _red_cells(s: Section, points: Points) -> None:
    axes = s.axes(len(points), 0.037, 0.8, 0.1)
    discs = s.filled(s.outlines(points, axes, s.rng.uniform(0, np.pi, len(points)), 0.05))
    s.cover(discs, 0.03, 1.05 + 0.1 * s.noise(0.03))


def _varied(rng: np.random.Generator, spread: float) -> float:
    """A factor around 1, log-normally spread."""
    return math.exp(rng.normal(0, spread))


def _edge(s: Section, share: Range) -> Field:
    """A wavy half plane that covers a random share of the tile, as a mask."""
    x, y = s.places()
    turn = s.rng.uniform(0, 2 * np.pi)
    slope = x * np.float32(math.cos(turn)) + y * np.float32(math.sin(turn)) + 0.08 * s.noise(0.5, 3)
    return np.clip((slope - float(np.quantile(slope[::4, ::4], 1 - s.rng.uniform(*share)))) / 0.015, 0, 1)


def _cytoplasm(s: Section, mask: Field) -> None:
    grain = s.noise(0.035, 3)
    s.cover(mask, s.rng.uniform(0.2, 0.35) + 0.05 * grain, s.rng.uniform(0.36, 0.46) + 0.06 * grain)


def _glands(s: Section, lumina: Field, thick: float, debris: Field) -> tuple[Field, Field]:
    """Epithelium of a thickness around lumina. Returns depth below the lumen and the epithelium's mask."""
    depth = s.distance(lumina) + 0.012 * s.noise(0.14, 2)
    wall = np.clip((thick - depth) / 0.012, 0, 1)
    _cytoplasm(s, wall)
    s.cover(s.soft(lumina, 0.005), 0.02 + 0.12 * debris, 0.03 + 0.38 * debris)
    return depth, wall


def _lung_aca(s: Section) -> None:
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


def _colon_aca(s: Section) -> None:
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


def _lung_scc(s: Section) -> None:
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


def _keratin(s: Section, nest: Field, depth: Field) -> Field:
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


def _parenchyma(s: Section, thick: float) -> tuple[float, Field, Field]:
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
        wall = np.maximum(wall, _edge(s, (0.15, 0.6)))
    depth = s.distance(1 - wall)
    angle = _stroma(s)
    e, h = s.e, s.h
    s.e, s.h = s.plain(0.02), s.plain(0.015)
    soft = s.soft(wall, 0.004)
    s.cover(soft, h + 0.04, e + 0.05)
    s.cover(np.clip(1 - np.abs(depth - 0.006) / 0.008, 0, 1) * soft * 0.6, 0.12, 0.6)
    return angle, wall, depth


def _lung_n(s: Section) -> None:
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


def _colon_n(s: Section) -> None:
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


_DRAW: dict[str, Callable[[Section], None]] = {
    "lung_aca": _lung_aca,
    "lung_n": _lung_n,
    "lung_scc": _lung_scc,
    "colon_aca": _colon_aca,
    "colon_n": _colon_n,
}


def tile_side(size: int) -> int:
    """Side (pixels) of the source tile of patches of a size: any rotation up to 25 degrees stays inside it."""
    return math.ceil(size * SPAN) + 2


def draw_tile(label: str, seed: int, index: int, size: int) -> U8:
    """Source tile `index` of a class, u8[S, S, 3] with S = tile_side(size). Each tile depends on its own index only."""
    import cv2

    rng = np.random.default_rng([seed, _class_index(label), index])
    matrix = stain_matrix(HAEMATOXYLIN + rng.normal(0, 0.03, 3), EOSIN + rng.normal(0, 0.04, 3))
    amounts = np.exp(rng.normal(0, 0.28, 2)).clip(0.55, 1.6)
    warmth, dimness = rng.normal(0, 0.02), rng.uniform(0, 0.04)  # of the empty slide: a warm one absorbs blue
    tint = np.array([max(-warmth, 0), 0.01 + abs(warmth) / 2, max(warmth, 0)], np.float32) + dimness
    focus = rng.uniform(0.002, 0.006)
    section = Section(rng, size)
    _DRAW[label](section)
    if label != "lung_n" and rng.uniform() < 0.35:
        section.cover(_edge(section, (0.08, 0.42)), 0.015, 0.02)
    dyes = section.soft(np.stack([section.h, section.e], axis=-1), focus)
    light: NDArray[Any] = to_grey(dyes @ (amounts[:, None] * matrix[:2]).astype(np.float32) + tint)
    side = tile_side(size)
    return np.asarray(cv2.resize(light, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def draw_copies(label: str, seed: int, index: int, size: int, copies: int) -> U8:
    """Augmented copies of one source tile, u8[copies, size, size, 3]: rotated by up to 25 degrees, flipped."""
    import cv2

    tile = draw_tile(label, seed, index, size)
    rng = np.random.default_rng([seed, _class_index(label), index, 1])
    middle = (len(tile) - 1) / 2
    patches = np.empty((copies, size, size, 3), np.uint8)
    for patch in patches:
        turn: NDArray[Any] = cv2.getRotationMatrix2D((middle, middle), rng.uniform(-TILT, TILT), 1.0)
        turn[:, 2] += (size - 1) / 2 - middle
        rotated = cv2.warpAffine(tile, turn, (size, size), flags=cv2.INTER_LINEAR)
        across, down = rng.choice((-1, 1), 2)
        patch[:] = rotated[::down, ::across]
    return patches


def tissue_digest(parameters: Mapping[str, object]) -> str:
    """Short hex name of what `write_tissue` would write under these keyword arguments, for a cache folder.

    The order of the classes does not count, the version of the drawing does.
    """
    plain = {key: sorted(value) if isinstance(value, list | tuple) else value for key, value in parameters.items()}
    text = json.dumps({"version": VERSION, **plain}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_tissue(
    root: Path,
    *,
    classes: Sequence[str],
    tiles_per_class: int,
    copies: int = 20,
    size: int = 96,
    seed: int = 0,
    workers: int = 2,
) -> Path:
    """Write generated tissue in LC25000's own layout and return its root.

    `lung_image_sets/lung_aca/lungaca1.jpeg` and so on, the copies of a tile one after another, and
    `source_groups.csv` (label,filename,source_group) which tells them. The folder appears whole or not at all; one
    that is there with equal parameters is returned at once.
    Raises MedflError for an unknown class, a figure below 1, a folder that holds something else, or an unwritable one.
    """
    for label in classes:
        _class_index(label)
    figures = {"tiles_per_class": tiles_per_class, "copies": copies, "size": size}
    for key, value in figures.items():
        if value < 1:
            raise MedflError(f"data.tissue.{key} must be at least 1, got {value}.")
    manifest = {"version": VERSION, "classes": sorted(set(classes)), **figures, "seed": seed}
    try:
        if not _is_complete(root, manifest):
            _write(root, manifest, workers)
    except OSError as error:
        raise MedflError(
            f"Generated tissue cannot be written to {root} ({error.strerror}); "
            "make the folder writable or name another data.root."
        ) from None
    return root


def _is_complete(root: Path, manifest: Mapping[str, object]) -> bool:
    """Whether root holds just this tissue; False while it holds nothing, MedflError if it holds anything else."""
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if root.is_dir() and any(root.iterdir()):
            raise MedflError(
                f"{root} holds files but no generated tissue ({MANIFEST}); name an empty or new folder for data.root."
            ) from None
        return False
    except ValueError:
        found = {}
    if found != manifest:
        differing = [key for key in manifest if found.get(key) != manifest[key]]
        was = ", ".join(f"{key} {found.get(key)} instead of {manifest[key]}" for key in differing)
        raise MedflError(
            f"{root} holds generated tissue of other parameters ({was}); remove it or name another data.root."
        )
    return True


def _write(root: Path, manifest: dict[str, Any], workers: int) -> None:
    """Draw everything into a hidden sibling folder, then rename it into place."""
    import cv2

    draft = root.with_name(f".{root.name}.{os.getpid()}.part")
    tiles = [(label, index) for label in manifest["classes"] for index in range(manifest["tiles_per_class"])]

    def save(tile: tuple[str, int]) -> list[str]:
        return _save_copies(draft, *tile, manifest["seed"], manifest["size"], manifest["copies"])

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # tiles side by side use the cores better than cv2's threads within one
    try:
        for label in manifest["classes"]:
            (draft / _folder(label)).mkdir(parents=True)
        with ThreadPoolExecutor(workers) as pool:
            lines = [line for written in pool.map(save, tiles) for line in written]
        (draft / "source_groups.csv").write_text("\n".join(["label,filename,source_group", *lines, ""]))
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if root.is_dir():
            root.rmdir()  # empty, or _is_complete would have refused it; some systems do not rename onto a folder
        draft.rename(root)
    except OSError:
        if not _is_complete(root, manifest):  # True when another process was faster
            raise
    finally:
        cv2.setNumThreads(threads)
        shutil.rmtree(draft, ignore_errors=True)


def _save_copies(root: Path, label: str, index: int, seed: int, size: int, copies: int) -> list[str]:
    """Save one tile's copies as JPEG; returns their lines of `source_groups.csv`."""
    from PIL import Image

    lines = []
    for k, patch in enumerate(draw_copies(label, seed, index, size, copies)):
        name = f"{FILE_STEMS[_class_index(label)]}{index * copies + k + 1}.jpeg"
        Image.fromarray(patch).save(root / _folder(label) / name, quality=95, subsampling=0)
        lines.append(f"{label},{name},{label}-{index:04d}")
    return lines


def _folder(label: str) -> str:
    return f"{label.split('_')[0]}_image_sets/{label}"


def _class_index(label: str) -> int:
    if label not in TISSUE_CLASSES:
        raise MedflError(
            f'Generated tissue has no class "{label}".{nearest(label, TISSUE_CLASSES)} '
            f"task.classes may name {', '.join(TISSUE_CLASSES)}."
        )
    return TISSUE_CLASSES.index(label)
