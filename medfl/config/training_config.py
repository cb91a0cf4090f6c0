"""How a pipeline trains: rounds, optimiser, schedule, augmentation, and which round's model counts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medfl.config.fields import ConfigSection, Count, Fraction, NonNegative, Positive, Transform
from medfl.config.program_parts import is_program
from medfl.config.spelling import SpeltName

CROSS_ENTROPY = "cross_entropy"
TIMEOUT = 3600.0  # seconds for one message, where `timeout` states no other


class Optimizer(ConfigSection):
    """The local optimiser; its state starts at zero every round. `clip` bounds the norm of what it steps with; with
    `layer_decay` the rate falls by this factor from layer to layer, from the classifier down."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.05
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: NonNegative = 0.0
    clip: Positive | None = None
    layer_decay: float | None = Field(None, gt=0, le=1)


class LearningRateSchedule(ConfigSection):
    """Learning rate over rounds: `constant`, `cosine` (to zero), or `step` (x gamma every `every` rounds)."""

    name: Literal["constant", "cosine", "step"] = "constant"
    every: Count = 10
    gamma: float = Field(0.5, gt=0, le=1)
    warmup: int = Field(0, ge=0)


class Augment(ConfigSection):
    """Training augmentation: batched on the device (flips, quarter turns, `stain`: the strength of a random laboratory
    for each patch, `exchange`: the share of patches that get dyes of other sites, colour), plus `jitter`, a list of
    albumentations transforms applied patch by patch on the CPU. With `views` a frozen backbone sees each training patch
    so often, once and for all: as it is, and augmented. `bag_dropout` is the share of a bag's tiles that a step leaves
    out."""

    flips: bool = True
    rotate90: bool = True
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: float = Field(0.0, ge=0, le=0.5)
    stain: Fraction | None = None
    exchange: Fraction | None = None
    jitter: list[Transform] = []
    views: Count | None = None
    bag_dropout: float | None = Field(None, ge=0, lt=1)


class DpSgd(ConfigSection):
    """Differential privacy of patients at each site: every patient's gradient is shortened to `clip`, and noise added
    with which the planned rounds spend `epsilon` at `delta`. `seeded` draws it from the run's seed, for tests."""

    epsilon: Positive
    delta: float = Field(1e-5, gt=0, lt=0.5)
    clip: Positive = 1.0
    seeded: bool = False


class Training(ConfigSection):
    """Rounds and local work. `local_steps` replaces `local_epochs` where stated. With `secure_aggregation` the server
    sees the sum of the updates and none of them; with `dp_sgd` sites train with differential privacy of patients."""

    rounds: Count
    local_epochs: Count = 1
    local_steps: Count | None = None
    batch_size: Count = 32
    optimizer: Optimizer = Optimizer()
    schedule: LearningRateSchedule = LearningRateSchedule()
    augment: Augment = Augment()
    loss: str | None = None
    weighted_loss: bool = False
    class_weights: dict[SpeltName, Positive] | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    buffers: Literal["average", "local"] = "average"
    sites_per_round: Count | None = None
    quorum: float = Field(0.5, gt=0, le=1)
    evaluate_every: Count = 1
    held_out_every: Count | None = None
    device: str = "auto"
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    channels_last: bool | None = None
    compile: bool = False
    threads: Count | None = None
    workers: Count | Literal["auto"] = 1
    timeout: Positive | None = None
    clock: Literal["virtual", "wall"] = "virtual"
    secure_aggregation: bool | None = None
    dp_sgd: DpSgd | None = None

    @property
    def answer_seconds(self) -> float:
        """Seconds that a site in another process has for one message."""
        return self.timeout or TIMEOUT

    @model_validator(mode="after")
    def _one_loss(self) -> Training:
        if self.loss not in (None, CROSS_ENTROPY) and not is_program(self.loss):
            raise ValueError(f"`loss` is {CROSS_ENTROPY}, and not {self.loss}; another is handed over from Python")
        if self.weighted_loss and self.class_weights:
            raise ValueError(
                "`weighted_loss` takes weights from a site's counts, `class_weights` states them; keep one"
            )
        for key in ("weighted_loss", "class_weights", "label_smoothing"):
            if self.loss not in (None, CROSS_ENTROPY) and getattr(self, key):
                raise ValueError(f"`{key}` is a part of cross entropy; remove it and put it into the loss itself")
        return self


class Selection(ConfigSection):
    """Which round's model counts: a validation figure over training sites. With `patience` training ends once no round
    has been better for so many."""

    metric: Literal[
        "val_mean_auroc",
        "val_worst_auroc",
        "val_mean_balanced_accuracy",
        "val_mean_loss",
        "val_mean_ece",
        "val_mean_brier",
    ]
    mode: Literal["max", "min"]
    patience: Count | None = None
