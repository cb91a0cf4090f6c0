"""DP-SGD of patients: every step sees a Poisson sample of them, bounds what each adds to its gradient, and adds noise.

M. Abadi et al., "Deep Learning with Differential Privacy", arXiv 1607.00133, algorithm 1, with a patient (a source
group) in the place of an example. With C the bound `clip`, P patients, each drawn with probability q,

    g_p = gradient of the mean loss over the patches of patient p
    g   = (sum_{p drawn} g_p min(1, C / ||g_p||) + N(0, (noise C)^2 I)) / (q P)

and the optimiser steps with g; what is made of it afterwards gives nothing more away. How many patches a patient has
moves no bound. Who is drawn and the noise come from the operating system's entropy, or, for tests, from the run's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfl.methods.core.context import SiteContext
from medfl.methods.differential_privacy import SHORTER, entropy_normal, entropy_uniform
from medfl.model.bag_network import Bags
from medfl.model.flat_model import FlatModel
from medfl.seeds import seed_for

Backward = Callable[[Tensor, Tensor, float], Tensor]
"""Patches, labels and a factor -> the mean loss; its gradient times the factor is added to the parameters'."""
Draw = Callable[[Tensor, int], Iterator[tuple[Tensor, Tensor]] | Iterator[tuple[Bags, Tensor]]]
"""Rows i64[steps, n] and a seed -> patches (never bags, which are refused) and labels of each step."""


@dataclass(frozen=True)
class PatientPrivacy:
    """The bound on a patient's gradient, the noise in multiples of it, the probability of a patient to be drawn for a
    step, and whether both draws follow from the run's seed."""

    clip: float
    noise: float
    rate: float
    seeded: bool = False


class PatientGradients:
    """The noised gradients of one round's steps.

    Args:
        local: the round.
        privacy: bound, noise and sampling.
        rows: of the training patches.
        groups: the patient of each of these rows.
        chunk: so many patches go through the network at once.
    """

    def __init__(
        self,
        local: SiteContext,
        privacy: PatientPrivacy,
        rows: NDArray[np.int64],
        groups: NDArray[np.int64],
        chunk: int,
    ) -> None:
        self.local, self.privacy, self.chunk = local, privacy, chunk
        self.patients = [rows[groups == patient] for patient in np.unique(groups)]
        self._sizes: list[int] = []
        self._uniform, self._normal = entropy_uniform, entropy_normal
        if privacy.seeded:
            generator = torch.Generator().manual_seed(seed_for(local.seed, "patients"))
            self._uniform = lambda count: torch.rand(count, generator=generator, dtype=torch.float64)
            self._normal = lambda count: torch.randn(count, generator=generator)

    def batches(self, draw: Draw) -> Iterator[tuple[Tensor | Bags, Tensor]]:
        """Patches and labels of every step, a drawn patient's one after the other; none of where nobody is drawn."""
        for step in range(self.local.steps):
            lots = self._uniform(len(self.patients)).numpy()
            drawn = [rows for rows, lot in zip(self.patients, lots, strict=True) if lot < self.privacy.rate]
            self._sizes = [len(rows) for rows in drawn]
            if drawn:
                order = torch.from_numpy(np.concatenate(drawn))[None, :]
                yield from draw(order, seed_for(self.local.seed, "step", step))
            else:
                yield torch.zeros(0), torch.zeros(0, dtype=torch.int64)

    def backward(self, images: Tensor | Bags, labels: Tensor, backward: Backward) -> Tensor:
        """Put the noised gradient of a step into the parameters; returns the mean over patients of their mean loss."""
        assert isinstance(images, Tensor)
        model, privacy = self.local.model, self.privacy
        total, own = self.local.vector("patients").zero_(), self.local.vector("patient")
        loss = torch.zeros((), device=total.device)
        begin = 0
        for size in self._sizes:
            for start in range(begin, begin + size, self.chunk):
                part = slice(start, min(start + self.chunk, begin + size))
                share = (part.stop - start) / size
                loss += share * backward(images[part], labels[part], share).detach()
            begin += size
            gradient = model.gather_gradient(own)
            length = torch.linalg.vector_norm(gradient, dtype=torch.float64)
            total += gradient * (privacy.clip * SHORTER / length.clamp_min(privacy.clip * SHORTER)).float()
            _forget(model)
        if privacy.noise:
            noise = self._normal(model.layout.size) * (privacy.noise * privacy.clip)
            total += model.layout.unpack(noise, self.local.vector("noise"))
        model.scatter_gradient(total.div_(privacy.rate * len(self.patients)))
        return loss / max(1, len(self._sizes))


def _forget(model: FlatModel) -> None:
    for parameter in model.parameters:
        parameter.grad = None
