"""One laboratory's colours brought to another's: statistics of unlabelled patches, and the change between two of them.

Both methods measure tissue only, in natural optical density, over all patches together, and both changes are affine in
density, so that a patch of a laboratory is changed as every other one is:

- `reinhard` (Reinhard et al., "Color transfer between images", 2001, here per channel of optical density instead of
  l-alpha-beta): OD' = (OD - mean) deviation_t / deviation + mean_t;
- `macenko` (Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009):
  OD' = OD inv(M) diag(amounts_t / amounts, 1) M_t with the dyes M [3, 3] of `optics.stain_matrix`.

Imports nothing of medfl but `optics`, since models that normalise carry this file along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.data.optics import EOSIN, F32, HAEMATOXYLIN, RGB, TISSUE_DENSITY, U8, stain_matrix, to_density, to_grey

F64 = NDArray[np.float64]
METHODS = ("reinhard", "macenko")
PIXELS = 1 << 20  # that statistics look at, on an even grid over all patches
LEAST_PATCHES = 16  # of a laboratory, where a model is used
LEAST_TISSUE = 100  # pixels
LEAST_DEVIATION = 0.05  # of density, in every channel
LEAST_ANGLE = 0.15  # sine of the angle between two dyes
LEAST_AMOUNT = 0.05  # of a dye
LEAST_SHARE = 0.01  # of a channel in a dye: no dye makes light
LARGEST = 50.0  # any of the numbers; densities end at ln 256
EXTREMES = (1.0, 99.0)  # percentiles of the angle between dyes, and of amounts
DIGITS = 6  # of a number: a sum's last ones depend on how many threads made it
CHUNK = 1 << 15  # pixels a pass


class NoStain(ValueError):
    """Patches of which no stain statistics can be had; one sentence says why."""


def _check(values: Sequence[float], low: float, what: str) -> None:
    if not all(low <= value <= LARGEST for value in values):
        raise ValueError(f"`{what}` of a stain is {list(values)}, and must be numbers from {low:g} to {LARGEST:g}")


@dataclass(frozen=True)
class DensityStatistics:
    """Mean and deviation of optical density over tissue pixels, per channel (red, green, blue).

    Raises ValueError for numbers that no tissue has.
    """

    mean: RGB
    deviation: RGB

    def __post_init__(self) -> None:
        _check(self.mean, 0.0, "mean")
        _check(self.deviation, LEAST_DEVIATION, "deviation")

    @property
    def numbers(self) -> list[float]:
        """The six numbers."""
        return [*self.mean, *self.deviation]

    def towards(self, target: DensityStatistics) -> tuple[F64, F64]:
        """(A f64[3, 3], b f64[3]): OD' = OD @ A + b has the target's mean and deviation."""
        scale = np.asarray(target.deviation) / np.asarray(self.deviation)
        return np.diag(scale), np.asarray(target.mean) - np.asarray(self.mean) * scale


@dataclass(frozen=True)
class DyeStatistics:
    """Colours of the two dyes (unit vectors of density in red, green, blue) and how much of each there is (the 99th
    percentile of its amount over tissue pixels). Raises ValueError for numbers that no tissue has."""

    haematoxylin: RGB
    eosin: RGB
    amounts: tuple[float, float]

    def __post_init__(self) -> None:
        _check(self.haematoxylin, 0.0, "haematoxylin")
        _check(self.eosin, 0.0, "eosin")
        _check(self.amounts, LEAST_AMOUNT, "amounts")
        lengths = np.linalg.norm(self.haematoxylin) * np.linalg.norm(self.eosin)
        apart = np.linalg.norm(np.cross(self.haematoxylin, self.eosin))
        if apart <= lengths * LEAST_ANGLE / 2:  # a mean of several may be nearer than those of one site
            raise ValueError("the two dyes are nearly of one colour")

    @property
    def numbers(self) -> list[float]:
        """The eight numbers."""
        return [*self.haematoxylin, *self.eosin, *self.amounts]

    def towards(self, target: DyeStatistics) -> tuple[F64, F64]:
        """(A f64[3, 3], b = 0): OD' = OD @ A is of the target's dyes in the target's amounts."""
        gain = np.diag([*(np.asarray(target.amounts) / np.asarray(self.amounts)), 1.0])
        separate = np.linalg.inv(stain_matrix(self.haematoxylin, self.eosin))
        return separate @ gain @ stain_matrix(target.haematoxylin, target.eosin), np.zeros(3)


StainStatistics = DensityStatistics | DyeStatistics
FIXED: dict[str, StainStatistics] = {
    "reinhard": DensityStatistics((0.43, 0.73, 0.18), (0.30, 0.54, 0.15)),  # LC25000's
    "macenko": DyeStatistics(HAEMATOXYLIN, EOSIN, (2.0, 1.8)),  # the simulator's dyes in LC25000's amounts
}
"""Reference of each method that needs no federation."""


def stain_statistics(patches: U8, method: str = "reinhard") -> StainStatistics:
    """The stain of a laboratory, from its patches u8[n, S, S, 3], n >= 1; labels are not asked.

    Raises:
        NoStain: there is hardly any tissue, nothing but one colour, or (macenko) only one dye.
        ValueError: no patches of that shape, or an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r} of stain normalisation, only {', '.join(METHODS)}")
    density = tissue_density(patches)
    if method == "reinhard":
        deviation = density.std(axis=0, dtype=np.float64)
        if deviation.min() < LEAST_DEVIATION:
            raise NoStain("their tissue is of one colour all over")
        return DensityStatistics(_rgb(density.mean(axis=0, dtype=np.float64)), _rgb(deviation))
    dyes = dye_colours(density)
    amounts = np.percentile(density @ np.linalg.inv(stain_matrix(*dyes))[:, :2].astype(np.float32), EXTREMES[1], axis=0)
    if amounts.min() < LEAST_AMOUNT:
        raise NoStain("there is hardly any of one of the two dyes in them")
    return DyeStatistics(
        _rgb(dyes[0]), _rgb(dyes[1]), (round(float(amounts[0]), DIGITS), round(float(amounts[1]), DIGITS))
    )


def tissue_density(patches: U8) -> F32:
    """Optical density f32[p, 3] of tissue pixels (mean density over the channels above 0.15) on an even grid over
    patches u8[n, S, S, 3]. Raises NoStain where there are fewer than 100, ValueError for no such patches."""
    if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[-1] != 3 or not patches.size:
        raise ValueError(f"stain statistics need uint8 [n, S, S, 3], got {patches.dtype} {list(patches.shape)}")
    step = max(1, int(np.ceil(np.sqrt(patches.size / 3 / PIXELS))))
    thin = max(1, int(np.ceil(len(patches) / PIXELS)))
    density = to_density(patches[::thin, ::step, ::step].reshape(-1, 3))
    tissue: F32 = density[density.mean(axis=1) > TISSUE_DENSITY]
    if len(tissue) < LEAST_TISSUE:
        raise NoStain("there is hardly any tissue in them, only empty slide")
    return tissue


def dye_colours(density: F32) -> F64:
    """Haematoxylin and eosin, unit rows f64[2, 3], of tissue pixels' density f32[p, 3], after Macenko et al.: the
    extreme directions (1st and 99th percentile) in the plane through white that holds most of the density.

    Raises NoStain where these two are nearly one.
    """
    _, axes = np.linalg.eigh(density.T.astype(np.float64) @ density / len(density))
    plane = axes[:, [2, 1]]  # of the largest second moments
    plane[:, 0] *= np.sign(plane[:, 0].sum()) or 1.0  # the main direction absorbs light
    along = density @ plane.astype(np.float32)
    angles = np.percentile(np.arctan2(along[:, 1], along[:, 0]), EXTREMES)
    dyes = np.clip([plane @ (np.cos(angle), np.sin(angle)) for angle in angles], LEAST_SHARE, None)
    dyes /= np.linalg.norm(dyes, axis=1, keepdims=True)
    if np.linalg.norm(np.cross(*dyes)) < LEAST_ANGLE:
        raise NoStain("there is only one dye in them")
    ordered: F64 = dyes[np.argsort(-dyes[:, 0])]  # haematoxylin absorbs more red
    return ordered


def mean_statistics(parts: Sequence[StainStatistics]) -> StainStatistics:
    """The reference of several laboratories, each counting the same: the means of their numbers. Raises ValueError for
    none, or for statistics of two methods."""
    kinds = {type(part) for part in parts}
    if len(kinds) != 1:
        raise ValueError("a reference is the mean of at least one laboratory's statistics, all of one method")
    return statistics_of(np.mean([part.numbers for part in parts], axis=0).tolist())


def statistics_of(numbers: Sequence[Any]) -> StainStatistics:
    """Statistics of their `numbers`: six of reinhard, eight of macenko. Raises ValueError for what can be neither."""
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise ValueError("stain statistics are numbers")
    values = [float(number) for number in numbers]
    if len(values) == 6:
        return DensityStatistics(_rgb(values[:3]), _rgb(values[3:]))
    if len(values) == 8:
        return DyeStatistics(_rgb(values[:3]), _rgb(values[3:6]), (round(values[6], DIGITS), round(values[7], DIGITS)))
    raise ValueError(f"stain statistics are 6 or 8 numbers, not {len(values)}")


def method_of(statistics: StainStatistics) -> str:
    """By which of `METHODS` they were made."""
    return METHODS[isinstance(statistics, DyeStatistics)]


def normalise(patches: U8, own: StainStatistics, target: StainStatistics) -> U8:
    """Patches u8[n, S, S, 3] of a laboratory with these statistics, as one with the target's would show them; a new
    array. Raises ValueError where the two are of different methods."""
    if type(own) is not type(target):
        raise ValueError("own and target statistics are of two methods of stain normalisation")
    if own == target:
        return patches.copy()
    matrix, offset = (part.astype(np.float32) for part in own.towards(target))  # type: ignore[arg-type]
    pixels = np.ascontiguousarray(patches).reshape(-1, 3)
    result = np.empty_like(pixels)
    for start in range(0, len(pixels), CHUNK):
        chunk = slice(start, start + CHUNK)
        result[chunk] = to_grey(to_density(pixels[chunk]) @ matrix + offset)
    return result.reshape(patches.shape)


def serving_stain(reference: Sequence[float]) -> Callable[[U8], U8]:
    """What a model that was trained in one stain needs done to patches u8[n, S, S, 3] of one laboratory, all of them at
    once: brought from their own stain, which they are asked themselves, to that with these numbers.

    The function raises NoStain for fewer than 16 patches, too few to say how a laboratory stains, and where theirs
    cannot be measured; never does it leave patches as they are.
    """
    target = statistics_of(reference)

    def apply(patches: U8) -> U8:
        if len(patches) < LEAST_PATCHES:
            raise NoStain(
                f"the model normalises patches by the stain of their laboratory, and {len(patches)} are too few to "
                f"tell it; give at least {LEAST_PATCHES} of one laboratory at once"
            )
        return normalise(patches, stain_statistics(patches, method_of(target)), target)

    return apply


def _rgb(values: Sequence[float] | F64) -> RGB:
    red, green, blue = (round(float(value), DIGITS) for value in values)
    return red, green, blue
