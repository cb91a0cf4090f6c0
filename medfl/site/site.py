"""One institution: it evaluates a model on its patches, trains it for a round, and replies with numbers.

A site knows no engine, no tracking and no configuration file. All sites of a process share one `Workbench`: one
network, one device, one set of working buffers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.batches import Batches, Jitter
from medfl.data.patch_store import PatchStore
from medfl.messages import HistogramRequest, MeasureRequest, Metrics, Reply, Request, TemperatureRequest, TrainRequest
from medfl.methods.core.context import SiteContext
from medfl.metrics.histograms import score_histograms
from medfl.metrics.measure import measure
from medfl.metrics.site_figures import SiteMeasurement, site_figures
from medfl.metrics.targets import target_scores, target_truth
from medfl.metrics.temperature import temperature_sums
from medfl.model.memory_limits import explained
from medfl.seeds import seed_for
from medfl.site.local_training import take_steps
from medfl.site.membership_attack import attack_members
from medfl.site.shared_model import LocalTrainingConfig, SharedModel


class SiteDiverged(Exception):
    """Training gave a loss or an update that is not finite."""


@dataclass(frozen=True)
class SiteMemory:
    """What a site carries from round to round, by name: committed, and pending with its round (see `Site._settle`)."""

    name: str
    state: Mapping[str, Tensor]
    pending: tuple[int, Mapping[str, Tensor]] | None


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
        work: LocalTrainingConfig,
        bench: SharedModel,
        jitter: Jitter | None = None,
        buffers: str = "average",
    ) -> None:
        self.name = name
        self.role = role
        self.store = store
        self.training = work
        self.shared = bench
        self.local_norms = bench.chain.local_norms and role == "train"
        self.local_buffers = (buffers == "local" or bench.chain.local_norms) and role == "train"
        self.norm_slots = bench.model.norm_slots() if self.local_norms else []
        self._norm_sizes = [slot.numel for slot in self.norm_slots]
        self.state: dict[str, Tensor] = {}
        self.pending: tuple[int, dict[str, Tensor]] | None = None
        self.jitter = jitter
        self._batches: Batches | None = None

    @property
    def batches(self) -> Batches:
        """The patches on the device, placed there at first use."""
        if self._batches is None:
            model = self.shared.model
            channels_last = model.spec.channels_last
            self._batches = Batches(
                self.store, model.device, model.mean, model.std, self.training.augment, self.jitter, channels_last
            )
        return self._batches

    def memory(self) -> SiteMemory:
        """What this site carries, as a value: both parts are replaced in later rounds, never written to."""
        return SiteMemory(self.name, self.state, self.pending)

    def handle(self, request: Request) -> Reply:
        """Evaluate the incoming model on the splits asked for, then train if asked.

        Where a method names further models (`variants`), each is measured too, as `<split>_<name>`.

        Raises:
            SiteDiverged: the training loss or the update is not finite.
            OutOfMemory: a buffer or a batch does not fit.
            ValueError: a held-out site asked to train, an unknown split, vectors of the wrong length.
        """
        if isinstance(request, TrainRequest) and self.role != "train":
            raise ValueError(f"{self.name} is held out and does not train")
        self._promote(request)
        answer = Reply(self.name, request.round)
        if request.splits:
            with self._explained("measuring", self.training.eval_batch_size, "evaluation.batch_size"):
                answer = self._evaluate(request)
        if not isinstance(request, TrainRequest):
            return answer
        began = time.perf_counter()
        with self._explained("training", self.training.batch_size, "training.batch_size"):
            local, loss = self._train(request)
        update = self._update(local, request.round)
        reply = dataclasses.replace(
            answer,
            samples=len(self.store.splits["train"]),
            steps=local.steps,
            update=update,
            buffers=self.shared.model.buffers(),
            train_loss=loss,
            fingerprint=self.shared.model.fingerprint(),
            extra=local.extra_up,
            seconds={**answer.seconds, "train": time.perf_counter() - began},
        )
        if not math.isfinite(reply.square):
            self.pending = None
            raise SiteDiverged(f"the update is not finite in round {request.round}")
        return reply

    def _explained(self, doing: str, batch: int, key: str) -> contextlib.AbstractContextManager[None]:
        """What is said where memory runs out."""
        what = f"{doing} with batches of {batch} patches of {self.store.images.shape[1]} px"
        return explained(what, self.shared.model.device, f"lower `{key}`")

    def logits(self, rows: NDArray[np.int64]) -> Tensor:
        """Logits f64[n, C], on the CPU, of the network as it is now, in the order of `rows` of the store."""
        bench = self.shared
        bench.net.eval()
        scores = []
        with torch.inference_mode(), bench.autocast():
            for images in self.batches.evaluation(rows, self.training.eval_batch_size, full=bench.compiled):
                scores.append(bench.net(images).float())
        if not scores:
            return torch.empty(0, len(bench.model.spec.classes), dtype=torch.float64)
        return torch.cat(scores)[: len(rows)].cpu().double()

    def _promote(self, request: Request) -> None:
        """Promote the pending state once the federation has accepted that round's reply; else discard it when the site
        trains again. Being measured in between leaves it: the reply may still be on its way."""
        if self.pending is not None and self.pending[0] <= request.last_accepted_round:
            self.state = self.pending[1]
            self.pending = None
        elif isinstance(request, TrainRequest):
            self.pending = None

    def _load(self, request: Request) -> None:
        self.shared.model.load(request.weights, request.buffers)

    def _own_norms(self) -> None:
        """Put this site's own normalisation layers into the network, where the method keeps them local."""
        model = self.shared.model
        if self.local_buffers and "buffers" in self.state:
            model.buffer_layout.unpack(self.state["buffers"], model.buffer_vector)
        if self.local_norms and "norms" in self.state:
            parts = torch.split(self.state["norms"], self._norm_sizes)
            for slot, part in zip(self.norm_slots, parts, strict=True):
                slot.view(model.vector).copy_(part.view(slot.shape))

    def _keep_norms(self, kept: dict[str, Tensor]) -> None:
        """Remember this site's own normalisation layers after local training."""
        model = self.shared.model
        if self.local_buffers:
            kept["buffers"] = model.buffers()
        if self.local_norms:
            kept["norms"] = torch.cat([slot.view(model.vector).reshape(-1) for slot in self.norm_slots])

    def _evaluate(self, request: Request) -> Reply:
        """The part of the reply that describes the incoming model."""
        began = time.perf_counter()
        self._load(request)
        self._own_norms()
        if isinstance(request, TemperatureRequest | HistogramRequest):
            answer = Reply(self.name, request.round, sums={s: self._sum(s, request) for s in request.splits})
        else:
            found = {split: self._measure(split, request) for split in request.splits}
            if self.role == "train":
                found |= self._measure_variants(request)
            answer = Reply(
                self.name,
                request.round,
                metrics={split: its.figures for split, its in found.items()},
                sums={split: its.sums for split, its in found.items() if its.sums},
                curves={split: its.curves for split, its in found.items() if its.curves},
            )
        return dataclasses.replace(answer, seconds={"evaluate": time.perf_counter() - began})

    def _measure_variants(self, request: Request) -> dict[str, SiteMeasurement]:
        """Measure the further models that methods name."""
        found: dict[str, SiteMeasurement] = {}
        methods = self.shared.chain.acting("personal_models")
        for method in methods:
            for name, variant in method.personal_models(self.state, request.weights).items():
                weights, buffers = (variant, request.buffers) if isinstance(variant, Tensor) else variant
                self.shared.model.load(weights, buffers)
                self._own_norms()
                found |= {f"{split}_{name}": self._measure(split, request, personal=True) for split in request.splits}
        if methods:
            self._load(request)
            self._own_norms()
        return found

    def _split(self, split: str, request: Request) -> tuple[NDArray[np.int64], Tensor]:
        """Rows i64[n] of a split, and their logits f64[n, C]."""
        if split not in self.store.splits:
            raise ValueError(f"{self.name} has no split {split!r}, only {', '.join(self.store.splits)}")
        rows = self.store.splits[split]
        logits = self.logits(rows)
        if not torch.isfinite(logits).all():
            raise SiteDiverged(f"the model's scores on {split} data are not finite in round {request.round}")
        return rows, logits

    def _sum(self, split: str, request: TemperatureRequest | HistogramRequest) -> Metrics:
        """What temperature and thresholds are chosen by: sums over a split's patches."""
        rows, logits = self._split(split, request)
        labels, classes = self.store.labels[rows], self.shared.model.spec.classes
        if isinstance(request, TemperatureRequest):
            return {"temperatures": temperature_sums(logits.numpy(), labels, request.temperatures).to_lists()}
        scores = target_scores(probabilities(logits, request.temperature), classes, request.malignant)
        return {"histograms": score_histograms(scores, target_truth(labels, classes, request.malignant)).to_lists()}

    def _measure(self, split: str, request: Request, personal: bool = False) -> SiteMeasurement:
        """What the final measurement asks for; in a round, and of a personal model, the figures at temperature 1."""
        rows, logits = self._split(split, request)
        data: dict[str, Any] = {
            "labels": self.store.labels[rows],
            "groups": self.store.groups[rows],
            "classes": self.shared.model.spec.classes,
            "resamples": request.resamples if isinstance(request, MeasureRequest) else 0,
            "seed": seed_for(self.training.seed, "bootstrap", self.name, split),
            "bins": self.training.bins,
        }
        plain = probabilities(logits)
        if personal or not isinstance(request, MeasureRequest):
            return SiteMeasurement(measure(plain, **data), {}, {})
        calibrated = probabilities(logits, request.temperature)
        found = site_figures(calibrated, plain, **data, malignant=request.malignant, thresholds=request.thresholds)
        if request.members and split == "test" and self.role == "train":
            told = attack_members(self.store, self.logits, logits, request.members, self.training.seed)
            found.figures["membership"] = told
        return found

    def begin(self, request: TrainRequest) -> SiteContext:
        """Start a round: the received model loaded, and moved to where the methods want training to start."""
        bench, work, model = self.shared, self.training, self.shared.model
        self._load(request)
        local = SiteContext(
            model=model,
            received=_copy_into(bench.scratch, "received", model.vector),
            start=model.vector,
            steps=work.steps(len(self.store.splits["train"])),
            lr=work.lr * request.lr_scale,
            seed=seed_for(work.seed, "train", request.round, self.name),
            round=request.round,
            rounds=work.rounds,
            extra=request.extra,
            state=self.state,
            scratch=bench.scratch,
            buffers=model.buffer_vector.clone() if bench.chain.needs_features else model.buffer_vector,
            labels=self.store.labels[self.store.splits["train"]],
            patches=lambda: self.store.images[self.store.splits["train"]],
        )
        self._own_norms()
        bench.chain.call("before_training", local)
        moved = bench.chain.acts("before_training") or (self.local_norms and "norms" in self.state)
        local.start = _copy_into(bench.scratch, "start", model.vector) if moved else local.received
        return local

    def _train(self, request: TrainRequest) -> tuple[SiteContext, float]:
        """Local steps from the received model; the network ends at e. Returns the round and the mean loss."""
        local = self.begin(request)
        mean_loss = float(take_steps(local, self.shared, self.training, self.batches, self.store.splits["train"]))
        if not math.isfinite(mean_loss):
            raise SiteDiverged(f"the training loss is not finite in round {request.round}")
        return local, mean_loss

    def _update(self, local: SiteContext, round_: int) -> Tensor:
        """w - endpoint in wire order, with endpoint = s - u."""
        bench = self.shared
        bench.chain.call("make_update", local)
        self._keep_norms(local.new_state)
        if local.new_state:
            self.pending = (round_, {**self.state, **local.new_state})
        displacement = local.displacement
        if displacement is None:
            displacement = torch.sub(local.start, bench.model.vector, out=local.vector("displacement"))
        if local.start is not local.received:
            displacement = displacement + (local.received - local.start)
        update = bench.model.layout.pack(displacement)
        return update


def probabilities(logits: Tensor, temperature: float | None = None) -> NDArray[np.float64]:
    """softmax(logits / T) f64[n, C]; no temperature is T = 1."""
    return (logits / (temperature or 1.0)).softmax(1).numpy()


def _copy_into(scratch: dict[str, Tensor], name: str, vector: Tensor) -> Tensor:
    """Copy a vector into a reusable buffer."""
    if name not in scratch:
        scratch[name] = torch.empty_like(vector)
    return scratch[name].copy_(vector)


def steps_by_site(sites: Iterable[Site]) -> dict[str, int]:
    """Local steps of every training site."""
    return {s.name: s.training.steps(len(s.store.splits["train"])) for s in sites if s.role == "train"}
