"""What a site works with: `LocalTrainingConfig` says what it does in a round; its process has one `SharedModel`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from medfl.data.batches import AugmentSpec
from medfl.methods.core.chain import MethodChain
from medfl.model.bag_network import Bags
from medfl.model.flat_model import FlatModel
from medfl.site.patient_gradients import PatientPrivacy

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits f32[N, C] and labels i64[N] -> the mean loss of the batch, f32[]."""
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class LocalTrainingConfig:
    """What a site does in a round. `local_steps`, where given, replaces `local_epochs`. With `views` a frozen network
    sees each training patch that often, once and for all; with 0 it sees the batches of every step. `weighted_loss`
    weighs classes by the site's own counts, `class_weights` (one for each class) as stated; `loss` replaces the cross
    entropy altogether. `stain_statistics` is the method by which the site tells its stain; "" where it does not.
    `class_mix` is the share of each class at the site, from its registry, where that is stated. With `patients` steps
    are made with differential privacy of patients. An update is rounded to `update_dtype` before it leaves."""

    batch_size: int = 32
    local_epochs: int = 1
    local_steps: int | None = None
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: float | None = None
    layer_decay: float | None = None
    weighted_loss: bool = False
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    loss: Loss | None = None
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    rounds: int = 1
    seed: int = 0
    eval_batch_size: int = 256
    bins: int = 15
    min_count: int = 1
    views: int = 0
    class_mix: tuple[float, ...] | None = None
    stain_statistics: str = ""
    patients: PatientPrivacy | None = None
    update_dtype: torch.dtype = torch.float32

    def steps(self, patches: int) -> int:
        """Local steps T for a site with this many training patches: every patch at least once an epoch."""
        return self.local_steps or self.local_epochs * math.ceil(patches / self.batch_size)


@dataclass
class SharedModel:
    """What the sites of one process share.

    Attributes:
        model: the one network.
        chain: the method.
        precision: "float32", or "bf16" or "fp16" (autocast; with "fp16" the loss is scaled).
        scratch: working buffers by name, allocated once.
        net: what is called in training and evaluation: the network, or its compiled form.
    """

    model: FlatModel
    chain: MethodChain
    precision: str = "float32"
    scratch: dict[str, Tensor] = field(default_factory=dict)
    compiled: bool = False

    def __post_init__(self) -> None:
        self.chain.prepare(self.model)
        self.net: nn.Module = self.model.net
        if self.compiled:
            self.net = torch.compile(self.model.net)  # type: ignore[assignment]
            self.model.check()

    def eval_mode(self) -> None:
        """Put the network into evaluation mode, and its compiled form."""
        self.model.eval_mode()
        if self.compiled:
            self.net.eval()

    def logits(self, inputs: Tensor | Bags) -> Tensor:
        """Logits [N, C] of normalised images [N, 3, S, S], of their features [N, F], or of N bags."""
        if isinstance(inputs, Tensor) and inputs.dim() == 2:
            return self.model.head(inputs)
        logits: Tensor = self.net(inputs)
        return logits

    def copied(self, name: str, vector: Tensor) -> Tensor:
        """A copy of a vector in the working buffer of that name."""
        if name not in self.scratch:
            self.scratch[name] = torch.empty_like(vector)
        return self.scratch[name].copy_(vector)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass."""
        if self.precision in AUTOCAST:
            return torch.autocast(self.model.device.type, dtype=AUTOCAST[self.precision])
        return contextlib.nullcontext()
