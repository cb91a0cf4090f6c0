"""Batches of bags on the training device: gathered without padding, some instances left out in training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.bag_store import BagStore
from medfl.model.bag_network import Bags

INSTANCES = 16_384
"""Instances of several bags that are looked at together where nothing trains; a bag of more is looked at alone."""


class BagBatches:
    """One site's bags, drawn from like `medfl.data.batches.Batches`.

    Args:
        store: the site's bags.
        device: where batches are made; the features lie there when they fit, else in host memory.
        dropout: the share of a bag's instances that a training step leaves out, at random.
    """

    def __init__(self, store: BagStore, device: torch.device, dropout: float = 0.0) -> None:
        self.store = store
        self.device = device
        self.dropout = dropout
        self.bounds: list[int] = store.offsets.tolist()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the array is read-only and never written through
            self.features = torch.from_numpy(np.asarray(store.features))
            self.labels = torch.from_numpy(np.asarray(store.labels)).to(device)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.features.nbytes < free // 2:
                self.features = self.features.to(device)

    def training(self, order: Tensor, seed: int) -> Iterator[tuple[Bags, Tensor]]:
        """(bags, labels i64[B]) for each row of `order` i64[T, B]; every bag keeps one instance at least."""
        generator = torch.Generator().manual_seed(seed)
        labels = self.labels[order.to(self.device)]
        for step, rows in enumerate(order.tolist()):
            yield self._bags([self._thinned(row, generator) for row in rows]), labels[step]

    def evaluation(self, rows: NDArray[np.int64], batch_size: int, full: bool = False) -> Iterator[Bags]:
        """Whole bags in the order of `rows`, at most `batch_size` of them and INSTANCES instances at a time."""
        batch: list[int] = []
        instances = 0
        for row in rows.tolist():
            size = self.bounds[row + 1] - self.bounds[row]
            if batch and (len(batch) == batch_size or instances + size > INSTANCES):
                yield self._bags([self._bag(each) for each in batch])
                batch, instances = [], 0
            batch.append(row)
            instances += size
        if batch:
            yield self._bags([self._bag(each) for each in batch])

    def _bag(self, row: int) -> Tensor:
        """The instances [n, F] of a bag, as they lie."""
        return self.features[self.bounds[row] : self.bounds[row + 1]]

    def _thinned(self, row: int, generator: torch.Generator) -> Tensor:
        """The instances of a bag that a step sees."""
        bag = self._bag(row)
        if not self.dropout:
            return bag
        draws = torch.rand(len(bag), generator=generator)
        kept = torch.nonzero(draws >= min(self.dropout, float(draws.max())))[:, 0]
        return bag[kept.to(bag.device)]

    def _bags(self, parts: list[Tensor]) -> Bags:
        together = parts[0] if len(parts) == 1 else torch.cat(parts)
        return Bags(together.to(self.device).float(), tuple(map(len, parts)))
