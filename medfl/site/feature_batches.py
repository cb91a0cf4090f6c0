"""Batches of features: where only the classifier trains, a patch goes through the frozen network once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.batches import Batches
from medfl.data.feature_file import feature_file, load_features, save_features
from medfl.seeds import seed_for
from medfl.site.shared_model import SharedModel

VIEW_BATCH = 16  # patches that are augmented together; a colour factor is that of a quarter of them


class FeatureBatches:
    """One site's patches as a frozen network sees them; drawn from like `Batches`.

    Args:
        images: the same patches as images.
        shared: the network.
        views: versions of each training patch: as it is, and views - 1 drawn by the augmentation.
        batch_size: patches in a forward pass, at most.
    """

    def __init__(self, images: Batches, shared: SharedModel, views: int, batch_size: int) -> None:
        self.images, self.shared = images, shared
        self.batch_size = batch_size
        self.count = views
        self.rows = images.store.splits.get("train", np.zeros(0, dtype=np.int64))
        self.labels = images.labels

    @cached_property
    def plain(self) -> Tensor:
        """f32[n, F]: every patch of the store as it is."""
        rows = np.arange(len(self.images.store.labels))
        return self.of_rows({}, rows, self._batches_of(rows))

    @cached_property
    def drawn(self) -> list[Tensor]:
        """views - 1 times f32[n_train, F]: the training patches, augmented; the same for every seed of a run."""
        augment = dataclasses.asdict(self.images.augment)
        for name in ("stain", "exchange"):  # where they are off, features of before are found
            if not augment[name]:
                del augment[name]
        drawn: dict[str, Any] = {"augment": augment}
        if self.images.exchange is not None:
            drawn["dyes"] = self.images.exchange.numbers
        return [self.of_rows(drawn | {"view": view}, self.rows, self._augmented(view)) for view in range(1, self.count)]

    def training(self, order: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(features f32[B, F], labels i64[B]) for each row of `order` i64[T, B], one view drawn for each patch."""
        device, labels = self.labels.device, self.labels[order.to(self.labels.device)]
        generator = torch.Generator().manual_seed(seed)
        views = torch.randint(self.count, order.shape, generator=generator)
        place = np.zeros(len(self.labels), dtype=np.int64)
        place[self.rows] = np.arange(len(self.rows))
        places = torch.from_numpy(place)
        for step, rows in enumerate(order):
            features = self.plain[rows]
            for view, table in enumerate(self.drawn, start=1):
                chosen = views[step] == view
                features[chosen] = table[places[rows[chosen]]]
            yield features.to(device), labels[step]

    def evaluation(self, rows: NDArray[np.int64], batch_size: int, full: bool = False) -> Iterator[Tensor]:
        """Features f32[<= batch_size, F] of patches as they are, in the order of `rows`."""
        order = torch.from_numpy(np.ascontiguousarray(rows))
        for begin in range(0, len(order), batch_size):
            yield self.plain[order[begin : begin + batch_size]].to(self.labels.device)

    def of_rows(self, drawn: Mapping[str, Any], rows: NDArray[np.int64], batches: Iterator[Tensor]) -> Tensor:
        """Features f32[rows, F] of images, from beside the patches or computed now.

        Args:
            drawn: whatever makes them other than the patches as they are.
            rows: of the store, which they are images of.
            batches: the images f32[B, 3, S, S], in that order.
        """
        folder = self.images.store.folder
        file = None if folder is None else feature_file(folder, self._settings(drawn, rows))
        features = None if file is None else load_features(file, len(rows))
        if features is None:
            with torch.inference_mode(), self.shared.autocast():
                self.shared.eval_mode()
                parts = [self.shared.model.features(images).float().cpu() for images in batches]
            features = torch.cat(parts)[: len(rows)].clone() if parts else torch.zeros(0, 0)
            if file is not None:
                save_features(file, features)
        return features

    def _settings(self, drawn: Mapping[str, Any], rows: NDArray[np.int64]) -> dict[str, Any]:
        """Whatever shapes a view's features, besides the patches."""
        model = self.shared.model
        settings: dict[str, Any] = {
            "backbone": model.spec.backbone,
            "args": dict(model.spec.args),
            "frozen": model.frozen_digest(),
            "input": [list(model.mean), list(model.std)],
            "precision": self.shared.precision,
        }
        if model.spec.pooling:
            settings["pooling"] = model.spec.pooling
        if drawn:
            settings |= drawn
            settings["rows"] = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
        return settings

    def _batches_of(self, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        return self.images.evaluation(rows, self.batch_size, full=self.shared.compiled)

    def _augmented(self, view: int) -> Iterator[Tensor]:
        """Batches of the training patches, augmented; the last one is filled up."""
        missing = -len(self.rows) % VIEW_BATCH
        order = torch.from_numpy(np.resize(self.rows, len(self.rows) + missing)).view(-1, VIEW_BATCH)
        for images, _ in self.images.training(order, seed_for(0, "view", view)):
            yield images


class PooledFeatures(FeatureBatches):
    """The training patches of several sites one after another, as `medfl.pipeline.build_site.pool` puts them."""

    def __init__(self, images: Batches, parts: Sequence[FeatureBatches]) -> None:
        super().__init__(images, parts[0].shared, parts[0].count, parts[0].batch_size)
        self.parts = parts

    @cached_property
    def plain(self) -> Tensor:
        """f32[n, F]."""
        return torch.cat([part.plain[torch.from_numpy(part.rows)] for part in self.parts])

    @cached_property
    def drawn(self) -> list[Tensor]:
        """views - 1 times f32[n, F]."""
        return [torch.cat(tables) for tables in zip(*(part.drawn for part in self.parts), strict=True)]
