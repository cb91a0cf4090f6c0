"""Dyes exchanged between laboratories: what a site tells of its two, and its patches recomposed with others'.

A patch's dyes are two unit vectors of density, W [2, 3] (`normalise.dye_colours`). A site tells their mean and
covariance over its patches, 27 numbers; whoever receives them draws dyes of that Gaussian and recomposes a patch of its
own, whose amounts of dye stay what they are: OD' = OD inv(M) M', M and M' being `optics.stain_matrix` of the two.

The Gaussian stands where FedSDA (arXiv:2511.12044) has a diffusion model of W; there W is Vahadane's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.data.normalise import DIGITS, F64, LEAST_ANGLE, LEAST_SHARE, NoStain, dye_colours, tissue_density
from medfl.data.optics import F32, U8, stain_matrix

SIX = 6  # values of two dyes
UPPER = np.triu_indices(SIX)
NUMBERS = SIX + len(UPPER[0])
LEAST_PATCHES = 8  # with two dyes, behind a covariance
PATCH_PIXELS = 1 << 12  # of a patch that its dyes are looked for in
TRIES = 8  # at two dyes that are not nearly one
TOLERANCE = 1e-5  # numbers are rounded


@dataclass(frozen=True, eq=False)
class DyeSpread:
    """The two dyes of a site's patches: mean f64[6] (haematoxylin, then eosin) and covariance f64[6, 6].

    Raises ValueError for what no dyes of tissue have.
    """

    mean: F64
    covariance: F64

    def __post_init__(self) -> None:
        finite = np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()
        if not finite or self.mean.min() < 0 or self.mean.max() > 1 or np.abs(self.covariance).max() > 1:
            raise ValueError("the mean of a site's dyes lies between 0 and 1, their covariance between -1 and 1")
        if _nearness(self.mean.reshape(1, 2, 3))[0] < LEAST_ANGLE / 2:
            raise ValueError("the two dyes of a site are nearly of one colour")
        if np.linalg.eigvalsh(self.covariance)[0] < -TOLERANCE:
            raise ValueError("the covariance of a site's dyes is none")

    @property
    def numbers(self) -> list[float]:
        """The mean and the upper triangle of the covariance, row by row: 27 numbers."""
        return [round(value, DIGITS) for value in (*self.mean.tolist(), *self.covariance[UPPER].tolist())]

    @classmethod
    def of(cls, numbers: Sequence[Any]) -> DyeSpread:
        """Of its `numbers`. Raises ValueError for what can be none."""
        plain = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
        if len(numbers) != NUMBERS or not plain:
            raise ValueError(f"a site tells its dyes by {NUMBERS} numbers")
        covariance = np.zeros((SIX, SIX))
        covariance[UPPER] = numbers[SIX:]
        covariance = covariance + np.triu(covariance, 1).T
        return cls(np.array(numbers[:SIX], dtype=np.float64), covariance)

    def draw(self, rng: np.random.Generator, count: int) -> F64:
        """Dyes f64[count, 2, 3], unit rows; two that are nearly one are drawn anew, and are the mean in the end."""
        values, axes = np.linalg.eigh(self.covariance)
        root = axes * np.sqrt(np.maximum(values, 0.0))
        drawn = np.tile(self.mean, (count, 1))
        left = np.ones(count, dtype=bool)
        for _ in range(TRIES):
            trial = np.maximum(self.mean + rng.standard_normal((count, SIX)) @ root.T, LEAST_SHARE)
            taken = left & (_nearness(trial.reshape(-1, 2, 3)) >= LEAST_ANGLE)
            drawn[taken] = trial[taken]
            left &= ~taken
        return _unit(drawn.reshape(-1, 2, 3))


def patch_dyes(patches: U8) -> tuple[F64, NDArray[np.bool_]]:
    """Dyes of each patch u8[n, S, S, 3]: (f64[n, 2, 3], whether it has two). Without two they are zeros."""
    dyes, seen = np.zeros((len(patches), 2, 3)), np.zeros(len(patches), dtype=bool)
    step = max(1, int(np.ceil(patches.shape[1] / np.sqrt(PATCH_PIXELS))))
    for row, patch in enumerate(patches):
        try:
            dyes[row] = dye_colours(tissue_density(patch[None, ::step, ::step]))
            seen[row] = True
        except NoStain:
            continue
    return dyes, seen


def dye_spread(dyes: F64) -> DyeSpread:
    """Mean and covariance of dyes f64[n, 2, 3]. Raises NoStain for fewer than 8."""
    if len(dyes) < LEAST_PATCHES:
        raise NoStain(f"two dyes are seen in {len(dyes)} of them, fewer than {LEAST_PATCHES}")
    rows = dyes.reshape(-1, SIX)
    return DyeSpread(rows.mean(axis=0), np.cov(rows.T))


class DyeExchange:
    """Patches of one site recomposed with the dyes of others.

    Args:
        rows: i64[n], rows of the store that are this site's training patches.
        dyes: f64[n, 2, 3], theirs; zeros where a patch shows no two.
        others: what the other sites tell, at least one.
    """

    def __init__(self, rows: NDArray[np.int64], dyes: F64, others: Sequence[DyeSpread]) -> None:
        self.others = tuple(others)
        self.place = np.full(int(rows.max(initial=-1)) + 1, -1, dtype=np.int64)
        self.place[rows] = np.arange(len(rows))
        has_two = np.asarray(dyes.sum(axis=(1, 2)) > 0)
        usual = dyes[has_two].mean(axis=0) if has_two.any() else None
        own = dyes.copy()
        if usual is not None:
            own[~has_two] = usual  # a patch of one dye is separated as the site's patches are on the whole
        self.separates = has_two if usual is None else np.ones(len(dyes), dtype=bool)
        self.separate = np.tile(np.eye(3), (len(dyes), 1, 1))
        where = self.separates
        self.separate[where] = np.linalg.inv(stain_matrix(own[where, 0], own[where, 1]))

    def transforms(self, rows: NDArray[np.int64], rng: np.random.Generator) -> F32:
        """f32[n, 3, 3] on density, for training patches `rows` i64[n]: each with dyes drawn from one of the others."""
        whose = rng.integers(len(self.others), size=len(rows))
        dyes = np.empty((len(rows), 2, 3))
        for number, other in enumerate(self.others):
            mine = whose == number
            dyes[mine] = other.draw(rng, int(mine.sum()))
        places = self.place[rows]
        result = self.separate[places] @ stain_matrix(dyes[:, 0], dyes[:, 1])
        result[~self.separates[places]] = np.eye(3)
        return result.astype(np.float32)

    @property
    def numbers(self) -> list[list[float]]:
        """What the draws depend on beside the patches and the seed."""
        return [other.numbers for other in self.others]


def _unit(dyes: F64) -> F64:
    return np.asarray(dyes / np.linalg.norm(dyes, axis=-1, keepdims=True))


def _nearness(dyes: F64) -> F64:
    """Sine of the angle between two dyes f64[n, 2, 3]; 0 where one of them is none."""
    lengths = np.linalg.norm(dyes, axis=-1).prod(axis=-1)
    apart = np.linalg.norm(np.cross(dyes[:, 0], dyes[:, 1]), axis=-1)
    return np.asarray(np.divide(apart, lengths, out=np.zeros_like(apart), where=lengths > 0))
