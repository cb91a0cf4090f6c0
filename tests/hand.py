"""Three-weight federations whose training is arithmetic, played by the real sites and the real round loop.

`three_weights` is a timm network of three weights: a stem convolution with one, a body convolution with two. Its
scores are always zero, but what flows back to the weights w is `curvature * (w - target)`, the gradient of a separable
quadratic, whatever the loss: a site writes its target into the upper row of its 2 x 2 patches and its curvature into
the lower one, one channel a weight. So a local step from w is w - lr * curvature * (w - target), by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import timm
import torch
from timm.models import register_model
from torch import nn

from medfl.data.batches import AugmentSpec
from medfl.data.patch_store import PatchStore
from medfl.federation.rounds import Federation
from medfl.federation.server_state import FederationConfig, ServerState
from medfl.federation.transport import InProcess
from medfl.messages import Failure
from medfl.methods.core.chain import MethodChain, build_chain
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.site.shared_model import LocalTrainingConfig, SharedModel
from medfl.site.site import Site


class _Pull(torch.autograd.Function):
    """Zero scores forwards, curvature * (w - target) backwards."""

    @staticmethod
    def forward(ctx, weights, images):
        ctx.save_for_backward(weights, images)
        return images.new_zeros(len(images), 2)

    @staticmethod
    def backward(ctx, _):
        weights, images = ctx.saved_tensors
        target, curvature = images.mean((0, 3)).unbind(1)
        return curvature * (weights - target), None


class ThreeWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 1, 1, bias=False)
        self.body = nn.Conv2d(1, 2, 1, bias=False)
        self.pretrained_cfg = {"input_size": (3, 2, 2), "mean": (0.0,) * 3, "std": (1.0,) * 3, "first_conv": "stem"}

    def forward(self, images):
        return _Pull.apply(torch.cat([self.stem.weight.flatten(), self.body.weight.flatten()]), images)


if "three_weights" not in timm.list_models():

    @register_model
    def three_weights(pretrained=False, **kwargs):
        return ThreeWeights()


@dataclass(frozen=True)
class Hand:
    """One site: training patches, where it pulls, how hard. Values are fifths, which 8 bits hold exactly."""

    samples: int
    target: tuple[float, float, float]
    curvature: tuple[float, float, float]
    steps: int = 2

    def store(self, name: str) -> PatchStore:
        total = self.samples + 4
        images = np.empty((total, 2, 2, 3), dtype=np.uint8)
        images[:, 0] = np.round(np.multiply(self.target, 255))
        images[:, 1] = np.round(np.multiply(self.curvature, 255))
        rows = np.arange(total)
        splits = {"train": rows[:-4], "val": rows[-4:-2], "test": rows[-2:]}
        return PatchStore(name, images, rows % 2, rows, splits, digest=name)


PAIR = {
    "near": Hand(2, target=(0.0, 0.0, 1.0), curvature=(1.0, 0.4, 0.2)),
    "far": Hand(6, target=(1.0, 0.0, 0.0), curvature=(0.2, 1.0, 0.4)),
}
START = (4.0, 2.0, -3.0)


class Lossy(InProcess):
    """Loses replies: at `lost`, a set of (round, site), the site does its work and nobody hears of it."""

    def __init__(self, sites, lost=()):
        super().__init__(sites)
        self.lost = set(lost)

    def call(self, sites, request):
        for answer in super().call(sites, request):
            if (answer.round, answer.site) in self.lost:
                yield Failure(answer.site, answer.round, "the line went dead")
            else:
                yield answer


class Absent(Lossy):
    """As if the site had never been asked to train in those rounds."""

    def call(self, sites, request):
        for name in sites:
            message = request(name)
            if (message.round, name) in self.lost:
                yield Failure(name, message.round, "the line went dead")
            else:
                yield from InProcess.call(self, [name], lambda _, message=message: message)


@dataclass
class Play:
    """A federation of hand-made sites, advanced round by round."""

    federation: Federation
    sites: dict[str, Site]
    records: list[dict] = field(default_factory=list)

    def rounds(self, count: int) -> list[list[float]]:
        """Play so many rounds; the global vector after each."""
        after = []
        for _ in range(count):
            self.records.append(self.federation.run_round())
            after.append(self.state.weights.tolist())
        return after

    @property
    def state(self) -> ServerState:
        return self.federation.state

    def committed(self, name: str) -> dict[str, torch.Tensor]:
        """A site's state as its next request would settle it."""
        site = self.sites[name]
        if site.pending and site.pending[0] <= self.state.accepted.get(name, -1):
            return site.pending[1]
        return site.state


def play(method=(), people=None, rounds=4, lr=0.5, momentum=0.0, start=START, transport=Lossy, lost=(), **plan) -> Play:
    """A federation of `people` (name -> Hand) under a method list or a ready chain."""
    people = people or PAIR
    chain = method if isinstance(method, MethodChain) else build_chain(method)
    model = FlatModel(ModelSpec("three_weights", ("a", "b")), torch.device("cpu"))
    chain.check(model, "sgd", momentum, 0.0)
    bench = SharedModel(model, chain)
    still = AugmentSpec(flips=False, rotate90=False)
    sites = {
        name: Site(
            name,
            "train",
            hand.store(name),
            LocalTrainingConfig(2, local_steps=hand.steps, lr=lr, momentum=momentum, augment=still, rounds=rounds),
            bench,
        )
        for name, hand in people.items()
    }
    settings = {"rounds": rounds, "seed": 0, "stages": {}, "momentum": momentum, "lr": lr, "evaluate_every": 2} | plan
    state = ServerState(0, torch.tensor(start), model.buffers())
    federation = Federation(FederationConfig(tuple(sites), (), **settings), transport(sites, lost), state, chain=chain)
    return Play(federation, sites)
