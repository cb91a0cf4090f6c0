"""The logits that a calibration is fitted to: computed once for all messages of a fit."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from medfl.data.batches import Batches
from medfl.messages import ScalingRequest, TemperatureRequest
from medfl.site.evaluator import Evaluator
from medfl.site.feature_batches import FeatureBatches
from medfl.site.laboratory_batches import laboratories


class FitLogits:
    """Logits of the last model asked about; another model, or other laboratories, replace them."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._logits: list[Tensor] = []

    def of(
        self,
        request: TemperatureRequest | ScalingRequest,
        evaluator: Evaluator,
        batches: Batches | FeatureBatches,
        weights: Tensor,
        buffers: Tensor,
    ) -> list[Tensor]:
        """Logits on each split of the request: f64[n, C] of its patches, or f64[k n, C] of them through each of k
        laboratories, one after the other.

        Args:
            evaluator: of the site's patches as they are, which are `batches`.
            weights, buffers: f32[P], f32[B], the model with what the site keeps to itself.
        """
        digest = hashlib.blake2b()
        for vector in (weights, buffers):
            digest.update(vector.detach().cpu().contiguous().numpy().tobytes())
        for split in request.splits:
            digest.update(evaluator.rows(split).tobytes())
        key = (digest.digest(), request.splits, request.laboratories, request.stain_strength)
        if key != self._key:
            evaluators = [evaluator]
            if request.laboratories:
                views = laboratories(batches, request.laboratories, request.stain_strength)
                evaluators = [Evaluator(evaluator.shared, evaluator.store, v, evaluator.batch_size) for v in views]
            seen = [own.logits_of_each(weights, buffers, request.splits) for own in evaluators]
            self._logits = [torch.cat(parts) for parts in zip(*seen, strict=True)]
            self._key = key
        return self._logits
