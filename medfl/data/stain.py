"""How another laboratory would have stained and scanned the same section: an optical-density transform.

A patch is separated into stain concentrations under the reference matrix and recomposed with the laboratory's own
matrix, amounts of dye, contrast and white point. `docs/stain.md` has the formulas and the measured distances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medfl.data.optics import EOSIN, F32, HAEMATOXYLIN, RGB, TISSUE_DENSITY, U8, stain_matrix, to_density, to_grey
from medfl.errors import MedflError, nearest

F64 = NDArray[np.float64]
CHUNK = 1 << 15  # pixels per pass: 384 KiB of float32 densities stay in the second-level cache


@dataclass(frozen=True)
class Stain:
    """The colours of one laboratory. The defaults are the reference, which changes nothing.

    haematoxylin, eosin: optical density per unit of dye in red, green, blue; any length, only the direction counts.
    gain: amount of haematoxylin and of eosin relative to the reference (section thickness, time in the bath).
    gamma: power on the transmitted light, the contrast of scanner and display; above 1 is darker.
    white: grey levels (0..255] of the empty slide.
    Raises ValueError for a value that is not positive and finite, and for two stains of one colour.
    """

    haematoxylin: RGB = HAEMATOXYLIN
    eosin: RGB = EOSIN
    gain: tuple[float, float] = (1.0, 1.0)
    gamma: float = 1.0
    white: RGB = (255.0, 255.0, 255.0)

    def __post_init__(self) -> None:
        lengths = {"haematoxylin": 3, "eosin": 3, "gain": 2, "gamma": 1, "white": 3}
        for key, length in lengths.items():
            array = np.atleast_1d(np.asarray(getattr(self, key), dtype=np.float64))
            values = array.tolist()
            if array.shape != (length,) or not all(math.isfinite(value) and value > 0 for value in values):
                what = "one positive number" if length == 1 else f"{length} positive numbers"
                raise ValueError(f"stain {key} must be {what}, got {getattr(self, key)!r}")
            # YAML gives lists; a stain is hashable, so they become tuples
            object.__setattr__(self, key, values[0] if length == 1 else tuple(values))
        if max(self.white) > 255:
            raise ValueError(f"stain white must be grey levels up to 255, got {self.white!r}")
        (a, b, c), (d, e, f) = self.haematoxylin, self.eosin
        sine = math.hypot(b * f - c * e, c * d - a * f, a * e - b * d) / math.hypot(a, b, c) / math.hypot(d, e, f)
        if sine < 0.05:
            raise ValueError("stain haematoxylin and eosin must be two different colours, they are nearly one")

    def at(self, strength: float) -> Stain:
        """The stain part of the way from the reference (0) to this one (1), every figure interpolated linearly."""
        if not 0 <= strength <= 1:
            raise ValueError(f"stain strength must lie between 0 and 1, got {strength!r}")

        def blend(reference: float, own: float) -> float:
            return reference + strength * (own - reference)

        here, there = stain_matrix(HAEMATOXYLIN, EOSIN), stain_matrix(self.haematoxylin, self.eosin)
        rows = (here + strength * (there - here)).tolist()
        return Stain(
            haematoxylin=tuple(rows[0]),
            eosin=tuple(rows[1]),
            gain=(blend(1, self.gain[0]), blend(1, self.gain[1])),
            gamma=blend(1, self.gamma),
            white=(blend(255, self.white[0]), blend(255, self.white[1]), blend(255, self.white[2])),
        )

    def transform(self) -> F32:
        """The whole change of laboratory in density space, f32[3, 3]: OD' = OD @ transform().

        Separation, gains and recomposition are linear, and a power on transmitted light is a factor on density, so
        gamma * inv(M_reference) @ diag(gain_h, gain_e, 1) @ M_site is all there is before the white point.
        """
        return _transform(stain_matrix(self.haematoxylin, self.eosin), np.asarray(self.gain), np.asarray(self.gamma))


def _transform(dyes: F64, gain: F64, gamma: F64) -> F32:
    """`Stain.transform` f32[..., 3, 3] of stain matrices [..., 3, 3], gains [..., 2] and gammas [...]."""
    separate = np.linalg.inv(stain_matrix(HAEMATOXYLIN, EOSIN))
    gains = np.concatenate([gain, np.ones_like(gain[..., :1])], axis=-1)
    transform = gamma[..., None, None] * separate @ (np.eye(3) * gains[..., None, :]) @ dyes
    return np.asarray(transform, dtype=np.float32)


def apply(images: U8, stain: Stain, strength: float = 1.0) -> U8:
    """Restain patches u8[N, H, W, 3]; a new array of the same shape. Strength 0 returns the same grey levels."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"patches to stain must be uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
    partial = stain.at(strength)
    if strength == 0:
        return images.copy()
    transform = partial.transform()
    pixels = images.reshape(-1, 3)
    result = np.empty_like(pixels)
    for start in range(0, len(pixels), CHUNK):
        chunk = slice(start, start + CHUNK)
        result[chunk] = to_grey(to_density(pixels[chunk]) @ transform, partial.white)
    return result.reshape(images.shape)


PROFILES: dict[str, Stain] = {
    "reference": Stain(),
    "violet_rich": Stain((0.61, 0.73, 0.30), (0.22, 0.91, 0.30), gain=(1.35, 1.00), white=(250, 247, 252)),
    "eosin_pink": Stain((0.62, 0.71, 0.33), (0.06, 0.90, 0.43), gain=(0.75, 1.45), white=(253, 250, 250)),
    "faded": Stain((0.60, 0.70, 0.38), (0.12, 0.90, 0.41), gain=(0.52, 0.58), white=(247, 245, 242)),
    "brownish_old": Stain((0.52, 0.66, 0.54), (0.17, 0.80, 0.57), gain=(0.95, 0.95), white=(247, 240, 226)),
    "cool_scanner": Stain((0.71, 0.66, 0.25), (0.21, 0.92, 0.30), gain=(1.00, 0.80), white=(238, 244, 253)),
    "warm_scanner": Stain((0.59, 0.70, 0.40), (0.09, 0.86, 0.50), gain=(0.75, 0.85), white=(255, 248, 236)),
    "thick_section": Stain((0.64, 0.69, 0.34), (0.13, 0.91, 0.40), gain=(1.45, 1.60), gamma=1.05),
    "bright_magenta": Stain((0.58, 0.76, 0.28), (0.08, 0.97, 0.22), gain=(0.85, 1.20), gamma=0.85),
    "blue_overstained": Stain((0.73, 0.63, 0.25), (0.24, 0.91, 0.33), gain=(1.60, 0.70), white=(248, 250, 252)),
}


def profile(name: str) -> Stain:
    """The shipped stain of that name; MedflError with the nearest names when there is none."""
    if name not in PROFILES:
        raise MedflError(
            f'stain: there is no profile "{name}".{nearest(name, PROFILES)} Known profiles: {", ".join(PROFILES)}.'
        )
    return PROFILES[name]


def random_stain(rng: np.random.Generator) -> Stain:
    """A plausible laboratory nobody described: hues, dye amounts, contrast and white point drawn around the reference.

    The two colours turn by about 6 degrees, the amounts of dye vary by a factor of about 1.3 either way, as between
    the shipped profiles.
    """
    haematoxylin, eosin, gain, gamma, white = (part[0] for part in _draw(rng, 1))
    return Stain(tuple(haematoxylin), tuple(eosin), tuple(gain), float(gamma), tuple(white))


def random_laboratories(rng: np.random.Generator, count: int, strength: float) -> tuple[F32, F32]:
    """What `random_stain(rng).at(strength)` does to density and white point, of many laboratories at once.

    Returns:
        (transforms f32[count, 3, 3], white points f32[count, 3] in grey levels).
    """
    haematoxylin, eosin, gain, gamma, white = _draw(rng, count)
    here, there = stain_matrix(HAEMATOXYLIN, EOSIN), stain_matrix(haematoxylin, eosin)
    rows = here + strength * (there - here)
    dyes = stain_matrix(rows[:, 0], rows[:, 1])
    transforms = _transform(dyes, 1 + strength * (gain - 1), 1 + strength * (gamma - 1))
    return transforms, (255 + strength * (white - 255)).astype(np.float32)


def _draw(rng: np.random.Generator, count: int) -> tuple[F64, F64, F64, F64, F64]:
    """The five figures of `count` random laboratories: [count, 3], [count, 3], [count, 2], [count], [count, 3]."""
    haematoxylin, eosin = (
        np.clip(np.asarray(row) + rng.normal(0, spread, (count, 3)), 0.03, None)
        for row, spread in ((HAEMATOXYLIN, 0.07), (EOSIN, 0.09))
    )
    gain = np.exp(rng.normal(0, 0.28, (count, 2))).clip(0.5, 1.8)
    warmth, dimness = rng.uniform(-1, 1, count), rng.uniform(0, 6, count)
    white = [255 - 10 * np.maximum(-warmth, 0), 252 - 5 * np.abs(warmth), 255 - 22 * np.maximum(warmth, 0)]
    return haematoxylin, eosin, gain, np.exp(rng.normal(0, 0.08, count)), np.stack(white, axis=-1) - dimness[:, None]


def mean_tissue_rgb(images: U8) -> NDArray[np.float64]:
    """Mean red, green and blue (grey levels, f64[3]) over the tissue pixels of patches u8[N, H, W, 3].

    Tissue is a mean optical density above 0.15, a geometric mean grey level below about 219. NaN without tissue.
    """
    pixels = images.reshape(-1, 3)
    tissue = pixels[to_density(pixels).mean(axis=1) > TISSUE_DENSITY]
    return tissue.mean(axis=0, dtype=np.float64) if len(tissue) else np.full(3, np.nan)
