"""How well the site can be told from a model's features of patches: what of a laboratory is left in them.

A linear probe guesses the site of patches of one class, so that sites' class mixes tell it nothing; it is fitted on
some source groups and asked about others. 1 / sites is chance: features without a trace of the laboratory. The same
question for 34 centres is asked by PathoROB (Kömen et al. 2025, arXiv:2507.17845).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]
FOLDS = 5
"""Also the least source groups of a class by which a site takes part: one for each fold."""
RIDGE = 1.0
"""Weight of the probe's penalty, in units of the patches' number, on features of unit variance."""


@dataclass(frozen=True)
class SiteSignature:
    """How well the site is told from features.

    Attributes:
        balanced_accuracy: mean over classes of the mean over sites of the share of patches whose site is told; None
            where it cannot be said.
        chance: what guessing would give.
        sites, classes: numbers of the sites and classes that took part.
        reason: why there is none, in a sentence; else "".
    """

    balanced_accuracy: float | None
    chance: float | None
    sites: tuple[int, ...]
    classes: tuple[int, ...]
    reason: str = ""


def site_signature(
    features: FloatArray, sites: IntArray, labels: IntArray, groups: IntArray, seed: int = 0, least: int = FOLDS
) -> SiteSignature:
    """The figure for patches of several sites.

    Args:
        features: [N, F], finite.
        sites: number of each patch's site, [N].
        labels: classes, [N].
        groups: source groups (patients, tiles) within the site, [N]; a group of the same number at another site is
            another one.
        seed: of how groups are dealt to folds.
        least: source groups of a class by which a site takes part, at least `FOLDS`.
    """
    shares, chances, classes, taking_part = [], [], [], set()
    least = max(least, FOLDS)
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label)
        own = {site: np.unique(groups[rows[sites[rows] == site]]) for site in np.unique(sites[rows]).tolist()}
        able = [site for site, its in own.items() if len(its) >= least]
        if len(able) < 2:
            continue
        rows = rows[np.isin(sites[rows], able)]
        fold = _folds(sites[rows], groups[rows], seed)
        shares.append(_told(features[rows].astype(np.float64), np.searchsorted(able, sites[rows]), fold))
        chances.append(1 / len(able))
        classes.append(label)
        taking_part |= set(able)
    if not shares:
        return SiteSignature(
            None,
            None,
            (),
            (),
            f"no class has two sites with {least} source groups each, so whether features tell the site is not known",
        )
    count = len(shares)
    return SiteSignature(
        math.fsum(shares) / count, math.fsum(chances) / count, tuple(sorted(taking_part)), tuple(classes)
    )


def _folds(sites: IntArray, groups: IntArray, seed: int) -> IntArray:
    """The fold of each patch: a site's groups are dealt evenly, and patches of a group stay together."""
    fold = np.empty(len(groups), np.int64)
    for site in np.unique(sites).tolist():
        at = np.flatnonzero(sites == site)
        names, index = np.unique(groups[at], return_inverse=True)
        order = np.random.default_rng([seed, site]).permutation(len(names))
        fold[at] = (order % FOLDS)[index]
    return fold


def _told(features: NDArray[np.float64], sites: IntArray, fold: IntArray) -> float:
    """Mean over sites of the share of patches whose site a probe of the other folds tells."""
    right = np.zeros(len(sites), bool)
    for asked in range(FOLDS):
        train, test = fold != asked, fold == asked
        mean, spread = features[train].mean(axis=0), features[train].std(axis=0)
        scaled = (features - mean) / np.where(spread > 0, spread, 1.0)
        right[test] = _probe(scaled[train], sites[train], scaled[test]) == sites[test]
    present = np.unique(sites).tolist()
    return math.fsum(float(right[sites == site].mean()) for site in present) / len(present)


def _probe(features: NDArray[np.float64], sites: IntArray, asked: NDArray[np.float64]) -> IntArray:
    """Ridge regression of each site's indicator, sites weighted alike; the site with the highest value.

    It is solved in the space of patches where these are fewer than features.
    """
    counts = np.bincount(sites)
    root = np.sqrt(len(sites) / (len(counts) * counts[sites]))[:, None]  # of weights that give every site the same
    centre = (root**2 * features).mean(axis=0)
    x, y = root * (features - centre), root * (np.eye(len(counts))[sites] - 1 / len(counts))
    penalty = RIDGE * len(sites)
    if len(x) < x.shape[1]:
        weights = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y)
    else:
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    return np.asarray(np.argmax((asked - centre) @ weights, axis=1), dtype=np.int64)


def signature_sentence(signature: Mapping[str, Any]) -> str:
    """What `summary.json` says of it, for people."""
    if signature["balanced_accuracy"] is None:
        return f"Site signature: none, since {signature['reason']}"
    return (
        f"Site signature: from features of unseen source groups a linear probe names the site of a patch in "
        f"{signature['balanced_accuracy']:.0%} (chance {signature['chance']:.0%}; {signature['sites']} sites, within "
        f"{signature['classes']} classes)"
    )
