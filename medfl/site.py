"""One institution: it evaluates a model on its patches, trains it for a round, and replies with numbers.

A site knows no engine, no tracking and no configuration file. All sites of a process share one `Workbench`: one
network, one device, one set of working buffers.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medfl.data.batches import AugmentSpec, Batches, Jitter, epoch_order
from medfl.data.patches import PatchStore
from medfl.methods.base import Chain, LocalRound
from medfl.metrics.measure import measure
from medfl.model import FlatModel
from medfl.protocol import Metrics, Reply, Request
from medfl.seeds import seed_for


class SiteDiverged(Exception):
    """Training gave a loss or an update that is not finite."""


@dataclass(frozen=True)
class LocalWork:
    """What a site does in a round. `local_steps`, where given, replaces `local_epochs`."""

    batch_size: int = 32
    local_epochs: int = 1
    local_steps: int | None = None
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    weighted_loss: bool = False
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    seed: int = 0
    eval_batch_size: int = 256
    bins: int = 15

    def steps(self, patches: int) -> int:
        """Local steps T for a site with this many training patches: every patch at least once an epoch."""
        return self.local_steps or self.local_epochs * math.ceil(patches / self.batch_size)


@dataclass
class Workbench:
    """What the sites of one process share.

    Attributes:
        model: the one network.
        chain: the method.
        precision: "float32" or "bf16" (autocast).
        scratch: working buffers by name, allocated once.
        net: what is called in training and evaluation: the network, or its compiled form.
    """

    model: FlatModel
    chain: Chain
    precision: str = "float32"
    scratch: dict[str, Tensor] = field(default_factory=dict)
    compiled: bool = False

    def __post_init__(self) -> None:
        self.net: nn.Module = self.model.net
        if self.compiled:
            self.net = torch.compile(self.model.net)  # type: ignore[assignment]
            self.model.check()

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass."""
        if self.precision == "bf16":
            return torch.autocast(self.model.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()


class Site:
    """One institution.

    Args:
        name, role: who it is; role "train" or "held_out" (a held-out site refuses to train).
        store: its patches.
        work: its local work.
        bench: the shared workbench.
        jitter: optional patch-wise training augmentation on the CPU.
        buffers: "average", or "local" to keep this site's own float buffers (they are still uploaded).
    """

    def __init__(
        self,
        name: str,
        role: str,
        store: PatchStore,
        work: LocalWork,
        bench: Workbench,
        jitter: Jitter | None = None,
        buffers: str = "average",
    ) -> None:
        self.name = name
        self.role = role
        self.store = store
        self.work = work
        self.bench = bench
        self.local_buffers = buffers == "local"
        self.state: dict[str, Tensor] = {}
        self.pending: tuple[int, dict[str, Tensor]] | None = None
        self._jitter = jitter
        self._batches: Batches | None = None

    @property
    def batches(self) -> Batches:
        """The patches on the device, placed there at first use."""
        if self._batches is None:
            model = self.bench.model
            self._batches = Batches(self.store, model.device, model.mean, model.std, self.work.augment, self._jitter)
        return self._batches

    def handle(self, request: Request) -> Reply:
        """Evaluate the incoming model on the splits asked for, then train if asked.

        Raises:
            SiteDiverged: the training loss or the update is not finite.
            ValueError: a held-out site asked to train, an unknown split, vectors of the wrong length.
        """
        if request.train and self.role != "train":
            raise ValueError(f"{self.name} is held out and does not train")
        self._settle(request.last_accepted_round)
        seconds: dict[str, float] = {}
        metrics: dict[str, Metrics] = {}
        if request.evaluate:
            began = time.perf_counter()
            self._load(request)
            for split in request.evaluate:
                metrics[split] = self._measure(split, request)
            seconds["evaluate"] = time.perf_counter() - began
        if not request.train:
            return Reply(self.name, request.round, metrics=metrics, seconds=seconds)
        began = time.perf_counter()
        local, loss = self._train(request)
        seconds["train"] = time.perf_counter() - began
        return Reply(
            self.name,
            request.round,
            samples=len(self.store.splits["train"]),
            steps=local.steps,
            update=self._update(local, request.round),
            buffers=self.bench.model.buffers(),
            train_loss=loss,
            metrics=metrics,
            seconds=seconds,
        )

    def probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Softmax probabilities f64[n, C] of the network as it is now, in the order of `rows` of the store."""
        bench = self.bench
        bench.net.eval()
        scores = []
        with torch.inference_mode(), bench.autocast():
            for images in self.batches.evaluation(rows, self.work.eval_batch_size):
                scores.append(bench.net(images).float())
        if not scores:
            return np.empty((0, len(bench.model.spec.classes)))
        return torch.cat(scores).double().softmax(1).cpu().numpy()

    def _settle(self, last_accepted_round: int) -> None:
        """Promote the pending state if the federation accepted that round's reply, else discard it."""
        if self.pending is not None:
            if self.pending[0] <= last_accepted_round:
                self.state = self.pending[1]
            self.pending = None

    def _load(self, request: Request) -> None:
        own = self.state.get("buffers") if self.local_buffers else None
        self.bench.model.load(request.weights, request.buffers if own is None else own)

    def _measure(self, split: str, request: Request) -> Metrics:
        if split not in self.store.splits:
            raise ValueError(f"{self.name} has no split {split!r}, only {', '.join(self.store.splits)}")
        rows = self.store.splits[split]
        probs = self.probabilities(rows)
        if not np.isfinite(probs).all():
            raise SiteDiverged(f"the model's scores on {split} data are not finite in round {request.round}")
        return measure(
            probs,
            self.store.labels[rows],
            self.store.groups[rows],
            self.bench.model.spec.classes,
            resamples=request.resamples,
            seed=seed_for(self.work.seed, "bootstrap", self.name, split),
            bins=self.work.bins,
        )

    def _train(self, request: Request) -> tuple[LocalRound, float]:
        """Local steps from the received model; the network ends at e. Returns the round and the mean loss."""
        bench, work, model = self.bench, self.work, self.bench.model
        self._load(request)
        rows = self.store.splits["train"]
        seed = seed_for(work.seed, "train", request.round, self.name)
        local = LocalRound(
            model=model,
            received=_copy_into(bench.scratch, "received", model.vector),
            start=model.vector,
            steps=work.steps(len(rows)),
            lr=work.lr * request.lr_scale,
            seed=seed,
            scratch=bench.scratch,
        )
        bench.chain.call("receive", local)
        local.start = (
            _copy_into(bench.scratch, "start", model.vector) if bench.chain.acts("receive") else local.received
        )
        optimizer = self._optimizer(local.lr)
        criterion = nn.CrossEntropyLoss(self._class_weights(rows))
        edits, records = bench.chain.acts("gradient"), bench.chain.acts("record")
        gradient = _copy_into(bench.scratch, "gradient", model.vector) if edits else None
        total = torch.zeros((), device=model.device)
        bench.net.train()
        order = epoch_order(rows, work.batch_size, local.steps, seed)
        for images, labels in self.batches.training(order, seed):
            with bench.autocast():
                loss = criterion(bench.net(images), labels)
            loss.backward()
            if gradient is not None:
                local.gradient = model.gather_gradient(gradient)
                bench.chain.call("gradient", local)
                model.scatter_gradient(gradient)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            local.step += 1
            if records:
                bench.chain.call("record", local)
            total += loss.detach()
        mean_loss = float(total) / local.steps
        if not math.isfinite(mean_loss):
            raise SiteDiverged(f"the training loss is not finite in round {request.round}")
        if self.local_buffers:
            self.pending = (request.round, {"buffers": model.buffers()})
        return local, mean_loss

    def _update(self, local: LocalRound, round_: int) -> Tensor:
        """w - endpoint in wire order, with endpoint = s - u."""
        bench = self.bench
        bench.chain.call("reply", local)
        displacement = local.displacement
        if displacement is None:
            displacement = torch.sub(local.start, bench.model.vector)
        if local.start is not local.received:
            displacement = displacement + (local.received - local.start)
        update = bench.model.layout.pack(displacement)
        if not torch.isfinite(update).all():
            raise SiteDiverged(f"the update is not finite in round {round_}")
        return update

    def _optimizer(self, lr: float) -> torch.optim.Optimizer:
        """A fresh optimiser: its state starts at zero every round."""
        work, parameters = self.work, self.bench.model.parameters
        if work.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=lr, weight_decay=work.weight_decay, fused=True)
        return torch.optim.SGD(parameters, lr=lr, momentum=work.momentum, weight_decay=work.weight_decay, fused=True)

    def _class_weights(self, rows: NDArray[np.int64]) -> Tensor | None:
        """Inverse class frequency of the site's training patches, mean 1 over patches; absent classes weigh 0."""
        if not self.work.weighted_loss:
            return None
        counts = np.bincount(self.store.labels[rows], minlength=len(self.bench.model.spec.classes))
        weights = np.where(counts > 0, len(rows) / (max(1, (counts > 0).sum()) * np.maximum(counts, 1)), 0.0)
        return torch.tensor(weights, dtype=torch.float32, device=self.bench.model.device)


def _copy_into(scratch: dict[str, Tensor], name: str, vector: Tensor) -> Tensor:
    """Copy a vector into a reusable buffer."""
    if name not in scratch:
        scratch[name] = torch.empty_like(vector)
    return scratch[name].copy_(vector)


def steps_by_site(sites: Iterable[Site]) -> dict[str, int]:
    """Local steps of every training site."""
    return {s.name: s.work.steps(len(s.store.splits["train"])) for s in sites if s.role == "train"}
