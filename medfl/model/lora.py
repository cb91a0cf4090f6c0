"""Low-rank adaptation of linear layers, one factor of the product fixed.

E. J. Hu et al., arXiv 2106.09685: a frozen weight W is trained as W + (alpha / rank) B A. Y. Sun et al. (FFA-LoRA),
arXiv 2403.12313: A stays as it was drawn, so what sites train is linear in B, and the mean of the sites' B gives the
mean of their products, which the means of B and of A do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from medfl.errors import MedflError

TARGETS = ("qkv", "proj")
FIXED, TRAINED = "lora_a", "lora_b"


@dataclass(frozen=True)
class Lora:
    """Which linear layers are adapted, and how.

    Attributes:
        rank: of the product.
        alpha: the product counts alpha / rank times.
        targets: patterns of the layers' names, whole or from a dot on.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = TARGETS


class LoraLinear(nn.Linear):
    """x -> W x + b + B A x. W and b keep their names; A [rank, in] is a buffer that has alpha / rank in it, and
    B [out, rank] starts at zero."""

    lora_a: Tensor

    def __init__(self, plain: nn.Linear, lora: Lora, seed: int) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        bound = plain.in_features**-0.5  # as the paper's code draws it; from the CPU's stream, the same on every device
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.empty(lora.rank, plain.in_features).uniform_(-bound, bound, generator=generator)
        self.register_buffer(FIXED, (drawn * (lora.alpha / lora.rank)).to(plain.weight))
        self.lora_b = nn.Parameter(torch.zeros(plain.out_features, lora.rank).to(plain.weight))

    def forward(self, input: Tensor) -> Tensor:  # nn.Linear's name
        """f32[..., in] -> f32[..., out]."""
        return linear(input, self.weight, self.bias) + linear(linear(input, self.lora_a), self.lora_b)


def add_lora(net: nn.Module, lora: Lora, backbone: str, seed: int) -> list[nn.Parameter]:
    """Adapt the linear layers that the targets name, but for the classifier, in place. Returns their factors B.

    Raises:
        MedflError: no layer has such a name, or the rank is not below a layer's width.
    """
    classifier = net.get_classifier() if hasattr(net, "get_classifier") else None  # type: ignore[operator]
    inside = set(classifier.modules()) if isinstance(classifier, nn.Module) else set()
    layers = {name: m for name, m in net.named_modules() if type(m) is nn.Linear and m not in inside}
    factors = []
    for target in lora.targets:
        if not any(_matches(name, target) for name in layers):
            leaves = sorted({name.rpartition(".")[2] for name in layers})
            raise MedflError(
                f"`model.train.lora.targets`: {backbone} has no linear layer {target!r} that could be adapted; it has "
                f"{', '.join(leaves) or 'none: state `train: head` or `{blocks: n}`'}"
            )
    for name, layer in layers.items():
        if any(_matches(name, target) for target in lora.targets):
            if lora.rank >= (width := min(layer.weight.shape)):
                raise MedflError(
                    f"`model.train.lora.rank: {lora.rank}` is not below the width of {name}, {width}; state less"
                )
            own = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "little")
            path, _, leaf = name.rpartition(".")
            adapted = LoraLinear(layer, lora, own)
            setattr(net.get_submodule(path), leaf, adapted)
            factors.append(adapted.lora_b)
    return factors


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the products added to the weights, under the names that the network had without them."""
    plain = {name: tensor for name, tensor in state.items() if not is_factor(name)}
    for name, trained in state.items():
        if name.endswith(f".{TRAINED}"):
            layer = name.removesuffix(TRAINED)
            plain[f"{layer}weight"] = plain[f"{layer}weight"] + trained @ state[f"{layer}{FIXED}"]
    return plain


def is_factor(name: str) -> bool:
    """Whether a tensor of a state dict is A or B of some layer."""
    return name.rpartition(".")[2] in (FIXED, TRAINED)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")
