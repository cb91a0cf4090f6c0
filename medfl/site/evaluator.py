"""What a model says of a site's patches: logits as a function of its vectors, and of nothing that went before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.bag_batches import BagBatches
from medfl.data.bag_store import SiteStore
from medfl.data.batches import Batches
from medfl.messages import Request
from medfl.site.feature_batches import FeatureBatches
from medfl.site.laboratory_batches import LaboratoryBatches
from medfl.site.shared_model import SharedModel

Rows = NDArray[np.int64]


class SiteDiverged(Exception):
    """A loss, an update or scores that are not finite."""


def finite(request: Request, logits: Sequence[Tensor]) -> dict[str, Tensor]:
    """The logits of each split asked for. Raises SiteDiverged where they are not finite."""
    by_split = dict(zip(request.splits, logits, strict=False))
    for split, own in by_split.items():
        if not torch.isfinite(own).all():
            raise SiteDiverged(f"the model's scores on {split} data are not finite in round {request.round}")
    return by_split


class Evaluator:
    """Logits of any model of one architecture on one site's patches.

    Args:
        shared: the network that the model is loaded into; what it holds afterwards is nobody's business.
        store: the site's patches.
        batches: the same on the device, as they are or through a laboratory.
        batch_size: patches in a forward pass, at most.
    """

    def __init__(
        self,
        shared: SharedModel,
        store: SiteStore,
        batches: Batches | FeatureBatches | LaboratoryBatches | BagBatches,
        batch_size: int,
    ) -> None:
        self.shared = shared
        self.store = store
        self.batches = batches
        self.batch_size = batch_size

    def rows(self, split: str) -> Rows:
        """Rows of the store that make a split. Raises ValueError where the site has none of that name."""
        if split not in self.store.splits:
            raise ValueError(f"{self.store.site} has no split {split!r}, only {', '.join(self.store.splits)}")
        return self.store.splits[split]

    def logits(self, weights: Tensor, buffers: Tensor, rows: Rows | str) -> Tensor:
        """Logits f64[n, C] on the CPU of the model (f32[P], f32[B]), in the order of these rows or those of a split."""
        return self.logits_of_each(weights, buffers, [rows])[0]

    def logits_of_each(self, weights: Tensor, buffers: Tensor, parts: Sequence[Rows | str]) -> list[Tensor]:
        """The same for several sets of rows, the model loaded once."""
        rows = [self.rows(part) if isinstance(part, str) else part for part in parts]
        self.shared.model.load(weights, buffers)
        self.shared.eval_mode()
        return [self._forward(part) for part in rows]

    def features(self, weights: Tensor, buffers: Tensor, rows: Rows) -> Tensor:
        """What the classifier of the model (f32[P], f32[B]) receives, f32[n, F] on the CPU, for these rows."""
        self.shared.model.load(weights, buffers)
        self.shared.eval_mode()
        return self._forward(rows, self.shared.model.features).float()

    def _forward(self, rows: Rows, network: Callable[[Any], Tensor] | None = None) -> Tensor:
        """Logits of the network as it is loaded, or what else of it gives a row for each."""
        shared, outputs = self.shared, []
        called = network or shared.logits
        with torch.inference_mode(), shared.autocast():
            for images in self.batches.evaluation(rows, self.batch_size, full=shared.compiled):
                outputs.append(called(images).float())
        if not outputs:
            return torch.empty(0, len(shared.model.spec.classes), dtype=torch.float64)
        return torch.cat(outputs)[: len(rows)].cpu().double()
