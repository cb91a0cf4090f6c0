"""A section on the drawing table: dye amounts over one tile, and the tools to draw tissue into them.

Lengths are in patch sides, so a scene hardly depends on the resolution; angles are in radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def tile_side(size: int) -> int:
    """Side (pixels) of the source tile of patches of a size: any rotation up to 25 degrees stays inside it."""
    return math.ceil(size * SPAN) + 2


class Canvas:
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
        variance = 0.6 * math.fsum(0.55 ** (2 * octave) for octave in range(octaves))
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
        scale = self.unit * (1 << SHIFT)
        spot = np.round((centres + rng.normal(0, 0.22, (n, 2)) * axes) * scale).astype(int).tolist()
        spot_radius = np.round(axes[:, 1] * rng.uniform(0.2, 0.32, n) * scale).astype(int).tolist()
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
