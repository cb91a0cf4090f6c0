"""Beer-Lambert optics of a stained section: grey levels, optical density, stain matrices.

Light through a section obeys Beer-Lambert per colour channel: T = exp(-OD), and the optical density of two stains
adds up: OD = c @ M with concentrations c [.., stains] and one unit row of M per stain. Densities here are natural
(base e). A grey level v in 0..255 stands for the transmission (v + 1) / 256, so black has a finite density and all
256 levels survive the way to density and back.

Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution", 2001;
Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
RGB = tuple[float, float, float]

# Density per unit of stain in red, green and blue. Haematoxylin is Ruifrok and Johnston's; eosin lies between theirs
# (0.07, 0.99, 0.11, almost magenta) and Macenko's (0.22, 0.80, 0.56, salmon), near what LC25000's normal lung shows.
HAEMATOXYLIN: RGB = (0.650, 0.704, 0.286)
EOSIN: RGB = (0.110, 0.925, 0.363)
LEVELS = 256
TISSUE_DENSITY = 0.15  # mean optical density over the channels above which a pixel is tissue, not empty slide


@cache
def density_table() -> F32:
    """Optical density of every grey level, f32[256]: -ln((v + 1) / 256); level 255 is exactly 0."""
    table = -np.log((np.arange(LEVELS, dtype=np.float64) + 1) / LEVELS)
    table.flags.writeable = False
    return table.astype(np.float32)


def to_density(grey: U8) -> F32:
    """Grey levels u8[...] to optical density f32[...], through the 256-entry table."""
    return np.take(density_table(), grey)


def to_grey(density: F32, white: Sequence[float] = (255.0, 255.0, 255.0)) -> U8:
    """Optical density f32[..., 3] under a white point (grey levels of the empty slide) to u8[..., 3].

    Overwrites `density`: the caller's array is the working space.
    """
    np.negative(density, out=density)
    np.exp(density, out=density)
    density *= np.asarray(white, dtype=np.float32) + 1
    density -= 0.5  # - 1 for the table's offset, + 0.5 to round when truncated
    np.clip(density, 0, LEVELS - 1, out=density)
    return density.astype(np.uint8)


def stain_matrix(haematoxylin: ArrayLike, eosin: ArrayLike) -> NDArray[np.float64]:
    """Unit rows for haematoxylin, eosin and a residual, f64[..., 3, 3] of dyes [..., 3].

    The residual is the normalised cross product of the two stains: whatever no mixture of them explains (pigment,
    noise) is kept in it, which makes the matrix invertible and the separation lossless.
    """
    stains = np.stack([np.asarray(haematoxylin, np.float64), np.asarray(eosin, np.float64)], axis=-2)
    stains /= np.linalg.norm(stains, axis=-1, keepdims=True)
    residual = np.cross(stains[..., 0, :], stains[..., 1, :])[..., None, :]
    residual /= np.linalg.norm(residual, axis=-1, keepdims=True)
    return np.concatenate([stains, residual], axis=-2)
