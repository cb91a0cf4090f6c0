"""Server optimisers: FedAvgM, FedAdagrad, FedAdam, FedYogi.

S. Reddi et al., "Adaptive Federated Optimization", arXiv 2003.00295, Algorithm 2; FedAvgM is T. Hsu et al., 1909.06335.
The round's mean update D = w - (mean of endpoints) is taken for a gradient (the paper's -Delta_t), coordinate-wise:

    FedAvgM     m <- momentum m + D                       w <- w - lr m
    others      m <- beta1 m + (1 - beta1) D              w <- w - lr m / (sqrt(v) + tau)
    FedAdagrad  v <- v + D^2
    FedAdam     v <- beta2 v + (1 - beta2) D^2
    FedYogi     v <- v - (1 - beta2) D^2 sign(v - D^2)

No bias correction. m starts at zero and v at tau^2, the smallest start the paper's Algorithm 2 allows (v >= tau^2).
Sites know nothing of it: no bytes, no local state. FedAvgM with lr 1 and momentum 0 is FedAvg. Buffers (BatchNorm
statistics) are averaged as in FedAvg.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from medfl.methods.core.context import ServerContext
from medfl.methods.core.method import Method, number, require


def _decay(value: Any, key: str) -> None:
    number(value, key, 0.0, 1.0)
    require(value < 1, f"`{key}` must be below 1")


@dataclass(frozen=True)
class ServerOptimiser(Method):
    """What the four share: one of them a chain, and a learning rate."""

    def _vector(self, server: ServerContext, name: str, start: float = 0.0) -> Tensor:
        """The server's own vector of this method, replaced by a copy that may be written to; `start` at first."""
        key, like = f"{self.name}.{name}", server.weights
        moment = server.tensors.get(key)
        server.tensors[key] = torch.full_like(like, start) if moment is None else moment.clone()
        return server.tensors[key]


@dataclass(frozen=True)
class FedAvgM(ServerOptimiser):
    """Heavy-ball momentum at the server (FedAvg with momentum)."""

    name: ClassVar[str] = "fedavgm"
    paper: ClassVar[str] = "arXiv:1909.06335"
    title: ClassVar[str] = (
        "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification"
    )
    neutral: ClassVar[Mapping[str, Any] | None] = {"lr": 1.0, "momentum": 0.0}
    submodel_safe: ClassVar[bool] = True
    lr: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        number(self.lr, "lr", 0.0, math.inf, open_low=True)
        _decay(self.momentum, "momentum")

    def server_step(self, server: ServerContext, update: Tensor) -> Tensor:
        """lr m."""
        return self.lr * self._vector(server, "m").mul_(self.momentum).add_(update)


@dataclass(frozen=True)
class _Adaptive(ServerOptimiser):
    """Steps scaled coordinate by coordinate."""

    lr: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        number(self.lr, "lr", 0.0, math.inf, open_low=True)
        _decay(self.beta1, "beta1")
        number(self.tau, "tau", 0.0, math.inf, open_low=True)

    def server_step(self, server: ServerContext, update: Tensor) -> Tensor:
        """lr m / (sqrt(v) + tau)."""
        m = self._vector(server, "m").lerp_(update, 1 - self.beta1)
        v = self._vector(server, "v", self.tau**2)
        self._second_moment(v, update.square())
        return self.lr * m / v.sqrt().add_(self.tau)

    def _second_moment(self, v: Tensor, square: Tensor) -> None:
        """Move v, in place, given D^2."""
        raise NotImplementedError


@dataclass(frozen=True)
class FedAdagrad(_Adaptive):
    """Adagrad at the server: v sums the squares of updates. Plain Adagrad, without a first moment, is beta1 0."""

    name: ClassVar[str] = "fedadagrad"
    paper: ClassVar[str] = "arXiv:2003.00295"
    title: ClassVar[str] = "Adaptive Federated Optimization"
    submodel_safe: ClassVar[bool] = True

    def _second_moment(self, v: Tensor, square: Tensor) -> None:
        v.add_(square)


@dataclass(frozen=True)
class FedAdam(_Adaptive):
    """Adam at the server: v is an exponential mean of the squares of updates."""

    name: ClassVar[str] = "fedadam"
    paper: ClassVar[str] = "arXiv:2003.00295"
    title: ClassVar[str] = "Adaptive Federated Optimization"
    submodel_safe: ClassVar[bool] = True
    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        _decay(self.beta2, "beta2")

    def _second_moment(self, v: Tensor, square: Tensor) -> None:
        v.lerp_(square, 1 - self.beta2)


@dataclass(frozen=True)
class FedYogi(_Adaptive):
    """Yogi at the server: as Adam, but v moves by the size of the squares, up or down."""

    name: ClassVar[str] = "fedyogi"
    paper: ClassVar[str] = "arXiv:2003.00295"
    title: ClassVar[str] = "Adaptive Federated Optimization"
    submodel_safe: ClassVar[bool] = True
    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        _decay(self.beta2, "beta2")

    def _second_moment(self, v: Tensor, square: Tensor) -> None:
        v.addcmul_(square, torch.sign(v - square), value=self.beta2 - 1)
