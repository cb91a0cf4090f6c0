"""The stain of each source group: six numbers of optical density, over some pixels of some of its patches."""

from __future__ import annotations

import math

import numpy as np

from medfl.data.normalise import F64, NoStain, stain_statistics
from medfl.data.patch_store import I64, U8
from medfl.data.stored_patches import StoredPatches

PATCHES, PIXELS = 8, 1 << 15  # of a source group, at most
NO_STAIN: F64 = np.empty((0, 6))


def group_stains(images: U8 | StoredPatches, rows: I64, groups: I64) -> F64:
    """Mean and deviation of density per channel, f64[S, 6], of every source group in which there is enough tissue.

    Args:
        images: u8[n, S, S, 3], as they were rendered and before any normalisation.
        rows: those to look at, [N].
        groups: the source group of each of these rows, [N].
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    made = []
    for members in np.split(order, starts):
        chosen = np.sort(rows[members[np.linspace(0, len(members) - 1, min(PATCHES, len(members))).astype(np.int64)]])
        patches = images[chosen]
        step = max(1, math.ceil(math.sqrt(patches.size / 3 / PIXELS)))
        try:
            made.append(stain_statistics(np.ascontiguousarray(patches[:, ::step, ::step])).numbers)
        except NoStain:
            continue
    return np.array(made, dtype=np.float64).reshape(-1, 6)
