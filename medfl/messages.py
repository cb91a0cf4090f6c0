"""What passes between the federation and a site: flat vectors and numbers, nothing else.

No path, file name or patch is representable here, and no single score is sent: figures, sums over patches, and counts
of patches by bin of their score. Vectors are in *wire order*: the model's trainable
parameters (or its float buffers) one after another in `named_parameters()` order, each contiguous in its canonical
layout, without padding, float32, on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """One message: a site first evaluates the incoming model on `evaluate` splits, then trains if `train`.

    In a round, `evaluate` asks for figures. After the last one come three further kinds of message, none of which
    trains: `temperatures` asks for sums, `histograms` for score histograms at `temperature`, and `temperature` alone
    for the final measurement of the calibrated model.

    Attributes:
        round: index t of the round, 0-based; metrics made for this request describe the model entering round t.
        weights: f32[P], the global model w.
        buffers: f32[B], the global float buffers (BatchNorm statistics).
        train: whether the site takes part in this round's training.
        evaluate: names of the splits to measure ("val", "test"), possibly none.
        lr_scale: factor on the site's learning rate in this round (schedule over rounds).
        resamples: bootstrap resamples for intervals; 0 means point figures only.
        last_accepted_round: latest round whose reply from this site was aggregated; -1 for none. The site promotes
            or discards its pending state by it.
        extra: further server vectors that a method of the chain sends, by name.
        temperatures: in place of figures, the sums of `medfl.metrics.temperature` at each of these.
        histograms: in place of figures, score histograms of every target.
        temperature: T by which logits are divided before anything but the figures "before" is measured; None asks
            for the figures of a round, at T = 1.
        thresholds: target -> score from which a patch is called positive; None for no operating points.
        malignant: names of the classes that together are the target "malignant", possibly none.
        members: at most so many training patches to tell from test patches by their loss, in the final measurement of
            a training site (`medfl.metrics.membership`); 0 for none.
    """

    round: int
    weights: Tensor
    buffers: Tensor
    train: bool
    evaluate: tuple[str, ...] = ()
    lr_scale: float = 1.0
    resamples: int = 0
    last_accepted_round: int = -1
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    temperatures: tuple[float, ...] = ()
    histograms: bool = False
    temperature: float | None = None
    thresholds: Mapping[str, float] | None = None
    malignant: tuple[str, ...] = ()
    members: int = 0


@dataclass(frozen=True)
class Reply:
    """A site's answer.

    Attributes:
        site: name.
        round: the request's round.
        samples: n_i, training patches of the site; 0 when it did not train.
        steps: local optimiser steps taken.
        update: f32[P], w - endpoint (see docs/architecture.md); None when it did not train.
        buffers: f32[B] after local training; None when it did not train.
        train_loss: mean training loss over the local steps; None when it did not train.
        fingerprint: hash of the architecture that was trained (`FlatModel.fingerprint`); "" when it did not train.
        metrics: per measured split, the dictionary of `medfl.metrics.measure`, or the figures of
            `medfl.metrics.site_figures` in the final measurement.
        sums: per split, what merges with other sites' (`to_lists` of each): "temperatures", or "histograms", or in the
            final measurement "after", "before" and "histograms".
        curves: per split, the curves of `medfl.metrics.site_figures`; in the final measurement only.
        extra: further site vectors that a method of the chain sends, by name.
        seconds: wall time by phase ("train", "evaluate").
    """

    site: str
    round: int
    samples: int = 0
    steps: int = 0
    update: Tensor | None = None
    buffers: Tensor | None = None
    train_loss: float | None = None
    fingerprint: str = ""
    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    sums: Mapping[str, Metrics] = field(default_factory=dict)
    curves: Mapping[str, Metrics] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def square(self) -> float:
        """||update||^2, computed at first use and never sent; not finite where the update is not."""
        assert self.update is not None
        return squared_length(self.update)


@dataclass(frozen=True)
class Failure:
    """A named failure: which site, in which round, and one sentence why."""

    site: str
    round: int
    reason: str


def squared_length(vector: Tensor) -> float:
    """||v||^2 of f32[n] on the CPU, in one pass; not finite where a value is not, or where values pass about 1e19."""
    return float(torch.dot(vector, vector))


def request_bytes(request: Request) -> int:
    """Bytes of the vectors a request carries."""
    vectors = [request.weights, request.buffers, *request.extra.values()]
    return sum(v.numel() * v.element_size() for v in vectors)


def reply_bytes(reply: Reply) -> int:
    """Bytes of the vectors a reply carries."""
    vectors = [v for v in (reply.update, reply.buffers) if v is not None] + list(reply.extra.values())
    return sum(v.numel() * v.element_size() for v in vectors)
