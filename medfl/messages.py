"""What passes between the federation and a site: flat vectors and numbers, nothing else.

No path, file name or patch is representable here, and no single score is sent: figures, sums over patches, and counts
of patches by bin of their score. Vectors are in *wire order*: the model's trainable
parameters (or its float buffers) one after another in `named_parameters()` order, each contiguous in its canonical
layout, without padding, float32, on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from medfl.plain_text import visible

Metrics = Mapping[str, Any]
POOL = "all_sites"
"""The site of all training data in one place. No site's name: those have no underscore."""


@dataclass(frozen=True)
class Request:
    """What every message to a site holds: a model, and the splits on which the site measures it.

    Each kind of message says what is measured. A `StainRequest` may come before the first round. In a round, a site
    that takes part gets a `TrainRequest` and one that only measures an `EvaluateRequest`; after the last round come
    `TemperatureRequest` or `ScalingRequest`, `HistogramRequest`, `MeasureRequest` and, where the pipeline adapts,
    `StainRequest` and `AdaptRequest`, of which none trains. Around a `TrainRequest` whose update is masked stand
    `KeyRequest` and `UnmaskRequest`.

    Attributes:
        round: index t of the round, 0-based; metrics made for this request describe the model entering round t.
        weights: f32[P], the global model w.
        buffers: f32[B], the global float buffers (BatchNorm statistics).
        splits: names of the splits to measure ("val", "test"), possibly none.
        last_accepted_round: latest round whose reply from this site was aggregated; -1 for none. The site promotes
            or discards its pending state by it.
        stain_reference: numbers of the stain that the site brings its patches to (`medfl.data.normalise`), possibly
            none.
    """

    round: int
    weights: Tensor
    buffers: Tensor
    splits: tuple[str, ...] = ()
    last_accepted_round: int = -1
    stain_reference: tuple[float, ...] = ()

    def vectors(self) -> dict[str, Tensor]:
        """The vectors that travel, by name."""
        return {"weights": self.weights, "buffers": self.buffers}


@dataclass(frozen=True)
class TrainRequest(Request):
    """The site evaluates the incoming model on the splits, as for an `EvaluateRequest`, and then trains it.

    Attributes:
        lr_scale: factor on the site's learning rate in this round (schedule over rounds).
        stain_others: 27 numbers of each other site's dyes (`medfl.data.stain_exchange`), one site after another.
        extra: further server vectors that a method of the chain sends, by name.
        mask_keys: site -> what it announced in answer to a `KeyRequest`, for all sites whose updates are summed behind
            masks in this round (`medfl.methods.core.masked_sums`); empty where updates are sent as they are.
        mask_tag: names this sum; no two have the same.
    """

    lr_scale: float = 1.0
    stain_others: tuple[float, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    mask_keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    mask_tag: str = ""

    def vectors(self) -> dict[str, Tensor]:
        """The vectors that travel, by name; those of methods as `extra.<name>`."""
        return super().vectors() | _extra(self.extra)


@dataclass(frozen=True)
class EvaluateRequest(Request):
    """The figures of a round, at temperature 1 and without intervals."""

    @staticmethod
    def of(request: Request) -> EvaluateRequest:
        """The part of a round's message that asks for figures."""
        return EvaluateRequest(**{part.name: getattr(request, part.name) for part in fields(EvaluateRequest)})


@dataclass(frozen=True)
class StainRequest(Request):
    """Before the first round, or before held-out sites are adapted: the statistics of a training site's stain, as sums
    of its training patches. Carries no model: weights and buffers are empty.

    Attributes:
        method: of `medfl.data.normalise`; "" where none are wanted.
        dyes: whether mean and covariance of its dyes are wanted.
    """

    method: str = ""
    dyes: bool = False


@dataclass(frozen=True)
class KeyRequest(Request):
    """Before a site's updates are summed behind masks: its public key. Carries no model."""


@dataclass(frozen=True)
class UnmaskRequest(Request):
    """After the masked updates of a round have come: a site's seeds by which their sum is unmasked. Carries no model.

    Attributes:
        tag: the `mask_tag` of the sum.
        survivors: the sites whose masked updates are in it.
    """

    tag: str = ""
    survivors: tuple[str, ...] = ()


@dataclass(frozen=True)
class TemperatureRequest(Request):
    """The sums of `medfl.metrics.temperature` at each of these temperatures, by which one of them is fitted.

    Attributes:
        temperatures: each above 0.
        laboratories: how many random laboratories each patch is seen through, instead of as it is; 0 for none.
        stain_strength: how far they are from the reference, 0 to 1.
    """

    temperatures: tuple[float, ...] = ()
    laboratories: int = 0
    stain_strength: float = 0.0


@dataclass(frozen=True)
class ScalingRequest(Request):
    """The sums of `medfl.metrics.vector_scaling` at each of these points, by which scales and biases are fitted.

    Attributes:
        points: scale and then bias of every class, C numbers each, one point after the other.
        laboratories, stain_strength: as for a `TemperatureRequest`.
    """

    points: tuple[float, ...] = ()
    laboratories: int = 0
    stain_strength: float = 0.0


@dataclass(frozen=True)
class HistogramRequest(Request):
    """Score histograms of every target, by which thresholds are chosen.

    Attributes:
        temperature: T by which logits are divided first; None is T = 1.
        scale, bias: of every class, by which they are then scaled and moved; empty for neither.
        malignant: names of the classes that together are the target "malignant", possibly none.
        top: how many patches, the most malignant ones, stand for a slide or patient (`medfl.metrics.units`); 0 for all.
    """

    temperature: float | None = None
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    malignant: tuple[str, ...] = ()
    top: int = 0


@dataclass(frozen=True)
class MeasureRequest(Request):
    """The final measurement of the calibrated model.

    Attributes:
        resamples: bootstrap resamples for intervals; 0 means point figures only.
        temperature: T by which logits are divided before anything but the figures "before" is measured.
        scale, bias: of every class, by which they are then scaled and moved; empty for neither.
        thresholds: target -> score from which a patch is called positive; None for no operating points.
        malignant: names of the classes that together are the target "malignant", possibly none.
        members: at most so many training patches to tell from test patches by their loss, at a training site
            (`medfl.metrics.membership`); 0 for none.
        monitoring: whether sums over source groups are asked for, with which later patches are compared
            (`medfl.metrics.monitored`).
        top: as in a `HistogramRequest`.
        unit_thresholds: thresholds of slides and of patients, by the keys of `medfl.metrics.units.UNITS`.
    """

    resamples: int = 0
    temperature: float = 1.0
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    thresholds: Mapping[str, float] | None = None
    malignant: tuple[str, ...] = ()
    members: int = 0
    monitoring: bool = False
    top: int = 0
    unit_thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class AdaptRequest(Request):
    """Measure a split as a site would that had only unlabelled patches of it to adapt the calibrated model by.

    Half of its source groups are adapted on, without their labels, and the others judged on (`medfl.site.adaptation`).

    Attributes:
        remedies: names (`medfl.metrics.remedies`); each is measured, and so is the model as it is, on the same patches.
        patches: at most so many are adapted on.
        training_mix: share of each class in training, in class order.
        reference: numbers of the stain that patches are normalised to (`medfl.data.normalise`); none for no such step.
        laboratory: strength of a random laboratory through which the site's patches are seen before anything else, so
            that the site stands for one that never trained; 0 for none.
        temperatures: where there are any, the sums of `medfl.metrics.temperature` at each are asked for in place of
            figures: of the judged patches of a site where the one remedy could be done.
        resamples, temperature, scale, bias, thresholds, malignant, top, unit_thresholds: as in a `MeasureRequest`.
    """

    remedies: tuple[str, ...] = ()
    patches: int = 256
    training_mix: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()
    laboratory: float = 0.0
    temperatures: tuple[float, ...] = ()
    resamples: int = 0
    temperature: float = 1.0
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    thresholds: Mapping[str, float] | None = None
    malignant: tuple[str, ...] = ()
    top: int = 0
    unit_thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


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
            `medfl.metrics.site_figures` in the final measurement; of an `AdaptRequest` they are by remedy, "none" with
            them, and say under "adaptation" what was done.
        sums: per split, what merges with other sites' (`to_lists` of each): "temperatures", "scaling" or "histograms",
            with it those of "slides" and "patients", or in the final measurement "after", "before" and "histograms";
            before the first round "statistics" and "dyes".
        curves: per split, the curves of `medfl.metrics.site_figures`; in the final measurement only.
        extra: further site vectors that a method of the chain sends, by name.
        seconds: wall time by phase ("train", "evaluate").
        masked: i64[P + B], update and buffers times samples behind masks, in place of both.
        masking: hexadecimal text by name: the announcement of a key, or the seeds that an `UnmaskRequest` asks for.
        update_dtype: the type of number by which `update` travels; each of its values is one of that type.
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
    masked: Tensor | None = None
    masking: Mapping[str, str] = field(default_factory=dict)
    update_dtype: torch.dtype = torch.float32

    @property
    def trained(self) -> bool:
        """Whether it carries an update, as it is or masked."""
        return self.update is not None or self.masked is not None

    def vectors(self) -> dict[str, Tensor]:
        """The vectors as they travel, by name; those of methods as `extra.<name>`."""
        update = None if self.update is None else self.update.to(self.update_dtype)
        trained = {"update": update, "buffers": self.buffers, "masked": self.masked}
        return {name: vector for name, vector in trained.items() if vector is not None} | _extra(self.extra)

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

    def __post_init__(self) -> None:
        """One line without control characters, whatever the error quotes: it is recorded and shown."""
        object.__setattr__(self, "reason", visible(self.reason))


def squared_length(vector: Tensor) -> float:
    """||v||^2 of f32[n] on the CPU, in one pass; not finite where a value is not, or where values pass about 1e19."""
    return float(torch.dot(vector, vector))


def message_bytes(message: Request | Reply) -> int:
    """Bytes of the vectors that a message carries."""
    return sum(vector.numel() * vector.element_size() for vector in message.vectors().values())


def _extra(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vectors of methods under the names by which they travel."""
    return {f"extra.{name}": vector for name, vector in vectors.items()}
