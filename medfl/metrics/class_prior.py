"""Class mixes: what a shift of the mix does to probabilities, and how much of each class unlabelled patches show.

A classifier trained under one class mix says p(y | x) under that mix. Where only the mix differs and p(x | y) does not,
the right probabilities elsewhere are p(y | x) times (mix there / mix in training), normalised anew: a shift of logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfl.metrics.auroc import FloatArray

LEAST_SHARE = 0.001
"""Of a class in a mix: what a registry has never seen is rare, not impossible, and no probability becomes 0."""
STEPS = 1000
TOLERANCE = 1e-8
"""Of a share between two steps of `estimated_mix`, which then ends."""


def proper_mix(shares: Sequence[float] | FloatArray) -> FloatArray:
    """Shares [C] raised to at least LEAST_SHARE and normalised to sum to 1. Raises ValueError for what is no mix."""
    mix = np.asarray(shares, dtype=np.float64)
    if mix.ndim != 1 or not np.isfinite(mix).all() or (mix < 0).any() or mix.sum() <= 0:
        raise ValueError(f"a class mix is one share a class, none below 0, not {mix.tolist()}")
    mix = np.maximum(mix / mix.sum(), LEAST_SHARE)
    return np.asarray(mix / mix.sum())


def mix_shift(there: Sequence[float] | FloatArray, training: Sequence[float] | FloatArray) -> FloatArray:
    """What is added to calibrated logits [C] where the class mix is `there` and was `training`: log(there / training).
    Raises ValueError for what is no mix."""
    return np.asarray(np.log(proper_mix(there)) - np.log(proper_mix(training)))


def estimated_mix(probs: FloatArray, training: Sequence[float] | FloatArray) -> FloatArray:
    """The class mix [C] of unlabelled patches by expectation-maximisation, from calibrated probabilities [N, C] of a
    classifier trained under the mix `training` (Saerens, Latinne and Decaestecker, "Adjusting the outputs of a
    classifier to new a priori probabilities", 2002, eqs. 2.7-2.8). It takes p(x | y) to be that of training.

    Raises:
        ValueError: no patches, or what is no mix.
    """
    if not len(probs):
        raise ValueError("a class mix is estimated from at least one patch")
    before = proper_mix(training)
    mix = before
    for _ in range(STEPS):
        joint = probs * (mix / before)
        renewed = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
        moved = float(np.abs(renewed - mix).max())
        mix = renewed
        if moved < TOLERANCE:
            break
    return np.asarray(mix)


def predicted_mix(probs: FloatArray, n_classes: int) -> FloatArray:
    """Share [C] of patches [N, C] whose most probable class is each class; N >= 1."""
    counts: NDArray[np.int64] = np.bincount(probs.argmax(axis=1), minlength=n_classes)
    return np.asarray(counts / len(probs))
