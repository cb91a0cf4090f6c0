"""A site's patches as random laboratories would have stained and scanned them, for the fit of a calibration."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.batches import Batches
from medfl.data.patch_store import U8
from medfl.data.stain import Stain, apply, random_stain
from medfl.seeds import seed_for
from medfl.site.feature_batches import FeatureBatches

MOST_LABORATORIES = 64


class LaboratoryBatches:
    """One site's patches, each seen through a laboratory drawn for it; evaluated like `Batches`.

    The draw depends on site, patch and number, so that every message and every seed of a run sees the same, and the
    features of a frozen network are computed once.

    Args:
        batches: the patches as they are, or their features; these are then computed anew, of the restained patches.
        number: which laboratory of a patch, from 0.
        strength: how far it is from the reference, 0 to 1.
    """

    def __init__(self, batches: Batches | FeatureBatches, number: int, strength: float) -> None:
        self.batches = batches
        self.images = batches.images if isinstance(batches, FeatureBatches) else batches
        self.number = number
        self.strength = strength

    def evaluation(self, rows: NDArray[np.int64], batch_size: int, full: bool = False) -> Iterator[Tensor]:
        """Normalised images f32[<= batch_size, 3, S, S], or their features, in the order of `rows`; see `Batches`."""
        if not isinstance(self.batches, FeatureBatches):
            yield from self._restained(rows, batch_size, full)
            return
        stains = repr([self._stain(row) for row in rows.tolist()])
        drawn = {"laboratories": hashlib.sha256(stains.encode()).hexdigest(), "stain_strength": self.strength}
        images = self._restained(rows, self.batches.batch_size, full)
        features = self.batches.of_rows(drawn, rows, images)
        for begin in range(0, len(rows), batch_size):
            yield features[begin : begin + batch_size].to(self.batches.labels.device)

    def _restained(self, rows: NDArray[np.int64], batch_size: int, full: bool) -> Iterator[Tensor]:
        for part in self.images.parts(rows, batch_size, full):
            yield self.images.normalised(self.patches(part))

    def patches(self, rows: NDArray[np.int64]) -> U8:
        """The restained patches u8[n, S, S, 3] of these rows of the store."""
        store = self.images.store
        drawn = [apply(store.images[row][None], self._stain(row), self.strength) for row in rows.tolist()]
        return np.concatenate(drawn) if drawn else np.asarray(store.images[:0])

    def _stain(self, row: int) -> Stain:
        site = self.images.store.site
        return random_stain(np.random.default_rng(seed_for("laboratory", self.number, site, row)))


def laboratories(batches: Batches | FeatureBatches, count: int, strength: float) -> list[LaboratoryBatches]:
    """So many views of a site's patches. Raises ValueError for more than `MOST_LABORATORIES`, or a strength that is
    none."""
    if not 0 < count <= MOST_LABORATORIES or not 0 <= strength <= 1:
        raise ValueError(
            f"{count} laboratories of strength {strength} were asked for; at most {MOST_LABORATORIES}, 0-1"
        )
    return [LaboratoryBatches(batches, number, strength) for number in range(count)]
