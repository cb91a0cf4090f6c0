"""One institution: it evaluates a model on its patches, trains it for a round, and replies with numbers.

A site knows no engine, no tracking and no configuration file. All sites of a process share one `SharedModel`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from medfl.data.bag_batches import BagBatches
from medfl.data.bag_store import BagStore, SiteStore
from medfl.data.batches import Batches, Jitter, at_once
from medfl.data.patch_store import PatchStore
from medfl.messages import (
    AdaptRequest,
    HistogramRequest,
    MeasureRequest,
    Reply,
    Request,
    ScalingRequest,
    StainRequest,
    TemperatureRequest,
    TrainRequest,
)
from medfl.methods.core.context import SiteContext
from medfl.methods.core.local_layers import LocalLayers
from medfl.metrics.site_figures import SiteMeasurement
from medfl.model.memory_limits import explained
from medfl.seeds import seed_for
from medfl.site import adaptation
from medfl.site.evaluator import Evaluator, Rows, SiteDiverged, finite
from medfl.site.feature_batches import FeatureBatches
from medfl.site.fit_logits import FitLogits
from medfl.site.local_training import take_steps
from medfl.site.measurement import Measurement
from medfl.site.membership_attack import attack_members, members_asked_for
from medfl.site.shared_model import LocalTrainingConfig, SharedModel
from medfl.site.site_stain import SiteStain
from medfl.site.state import PendingState, SiteMemory


class Site:
    """One institution.

    Args:
        name, role: who it is; role "train" or "held_out" (a held-out site refuses to train).
        store: its patches, as they were rendered, or its bags of features.
        work: its local work.
        bench: the shared workbench.
        jitter: optional patch-wise training augmentation on the CPU.
        buffers: "average", or "local" to keep this site's own float buffers (they are still uploaded).
    """

    def __init__(
        self,
        name: str,
        role: str,
        store: SiteStore,
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
        self.local_layers = LocalLayers.of(self.norm_slots, bench.model.device)
        self.jitter = jitter
        self.stain = SiteStain(store, work) if isinstance(store, PatchStore) else None
        self._memory = SiteMemory(name)
        self._fit_logits = FitLogits()

    @cached_property
    def images(self) -> Batches:
        """The patches on the device, placed there at first use."""
        model, augment = self.shared.model, self.training.augment
        assert isinstance(self.store, PatchStore)
        assert self.stain is not None
        channels_last, exchange = model.spec.channels_last, self.stain.exchange
        return Batches(self.store, model.device, model.mean, model.std, augment, self.jitter, channels_last, exchange)

    @cached_property
    def batches(self) -> Batches | FeatureBatches | BagBatches:
        """What the network is given: the patches, their features where these are computed once, or bags of features."""
        if isinstance(self.store, BagStore):
            return BagBatches(self.store, self.shared.model.device, self.training.augment.bag_dropout)
        if not self.features_once:
            return self.images
        return FeatureBatches(self.images, self.shared, self.training.views, self.training.eval_batch_size)

    @property
    def features_once(self) -> bool:
        """Whether the network before the classifier sees every patch once, not in every step."""
        changing = self.shared.model.trains_features or self.shared.chain.acts("transform_batch")
        return self.training.views > 0 and not changing

    def compute_features(self) -> None:
        """Compute them now, where they are computed once."""
        if isinstance(self.batches, FeatureBatches):
            with self._explained("computing features", self.training.eval_batch_size, "evaluation.batch_size"):
                _ = self.batches.plain, self.batches.drawn if self.role == "train" else None

    def take_stains(self, request: Request) -> None:
        """Bring the patches to the stain that a message names, and take along the dyes of others that it holds."""
        if self.stain is not None and self.stain.take(request):
            self.store = self.stain.store
            for made in ("images", "batches"):
                self.__dict__.pop(made, None)
            self.compute_features()

    @property
    def evaluator(self) -> Evaluator:
        """Logits of models on this site's patches."""
        return Evaluator(self.shared, self.store, self.batches, self.training.eval_batch_size)

    def memory(self) -> SiteMemory:
        """What this site carries from round to round, as a value."""
        return self._memory

    def restore(self, memory: SiteMemory) -> None:
        """Carry what a site of this name carried before."""
        self._memory = memory

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The state that the server's last acceptance left."""
        return self._memory.state

    @property
    def pending(self) -> PendingState | None:
        """The state that waits for the server's acceptance."""
        return self._memory.pending

    def handle(self, request: Request) -> Reply:
        """Evaluate the incoming model on the splits asked for, then train if asked.

        Where a method names further models (`Method.personal_models`), each is measured too, as `<split>_<name>`.

        Raises:
            SiteDiverged: the training loss or the update is not finite.
            OutOfMemory: a buffer or a batch does not fit.
            ValueError: a held-out site asked to train, an unknown split, vectors of the wrong length.
        """
        if isinstance(request, TrainRequest) and self.role != "train":
            raise ValueError(f"{self.name} is held out and does not train")
        if isinstance(request, StainRequest):
            if self.stain is None:
                raise ValueError(f"{self.name} has features of slides, which have no stain")
            return Reply(self.name, request.round, sums=dict.fromkeys(request.splits, self.stain.answer(request)))
        self.take_stains(request)
        self._settle(request)
        answer = Reply(self.name, request.round)
        if request.splits:
            with self._explained("measuring", self.training.eval_batch_size, "evaluation.batch_size"):
                answer = self._evaluate(request)
        if not isinstance(request, TrainRequest):
            return answer
        began = time.perf_counter()
        with self._explained("training", self.training.batch_size, "training.batch_size"):
            local, loss = self._train(request)
        reply = dataclasses.replace(
            answer,
            samples=len(self.store.splits["train"]),
            steps=local.steps,
            update=self._update(local, request),
            update_dtype=self.training.update_dtype,
            buffers=self.shared.model.buffers(),
            train_loss=loss,
            fingerprint=self.shared.model.fingerprint(),
            extra=local.extra_up,
            seconds={**answer.seconds, "train": time.perf_counter() - began},
        )
        if not math.isfinite(reply.square):
            self._memory = self._memory.without_pending()
            raise SiteDiverged(f"the update is not finite in round {request.round}")
        return reply

    def _explained(self, doing: str, batch: int, key: str) -> contextlib.AbstractContextManager[None]:
        """What is said where memory runs out."""
        store, device, each = self.store, self.shared.model.device, "slides"
        if isinstance(store, PatchStore):
            size = store.images.shape[1]
            batch, each = batch if doing == "training" else at_once(batch, size, device), f"patches of {size} px"
        return explained(f"{doing} with batches of {batch} {each}", device, f"lower `{key}`")

    def own_model(self, weights: Tensor, buffers: Tensor) -> tuple[Tensor, Tensor]:
        """A model (f32[P], f32[B]) with this site's own normalisation layers, where it has any; else as it is."""
        if self.local_buffers and "buffers" in self.state:
            buffers = self.state["buffers"]
        if self.local_norms and "norms" in self.state:
            weights = weights.clone()
            own = torch.split(self.state["norms"], [slot.numel for slot in self.norm_slots])
            for slot, part in zip(self.norm_slots, own, strict=True):
                weights[slot.start : slot.start + slot.numel].copy_(part)
        return weights, buffers

    def _settle(self, request: Request) -> None:
        """Promote the pending state once that round's reply was accepted; discard it when the site trains anew."""
        memory = self._memory.promoted(request.last_accepted_round)
        self._memory = memory.without_pending() if isinstance(request, TrainRequest) else memory

    def _keep_norms(self, new_state: dict[str, Tensor]) -> None:
        """Remember this site's own normalisation layers after local training."""
        model = self.shared.model
        if self.local_buffers:
            new_state["buffers"] = model.buffers()
        if self.local_norms:
            new_state["norms"] = torch.cat([slot.view(model.vector).reshape(-1) for slot in self.norm_slots])

    def _evaluate(self, request: Request) -> Reply:
        """The part of the reply that describes the incoming model."""
        began = time.perf_counter()
        if isinstance(request, TemperatureRequest | ScalingRequest):
            return self._fit_sums(request, began)
        measurement = Measurement(self.store, self.shared.model.spec.classes, self.training)
        if isinstance(request, AdaptRequest):
            self.shared.model.load(*self.own_model(request.weights, request.buffers))
            return adaptation.answer(request, self.images, self.shared, measurement)
        members = members_asked_for(request, self.store, self.role, self.training.seed)
        parts: list[Rows | str] = [*request.splits, *([] if members is None else [members])]
        logits = self.evaluator.logits_of_each(*self.own_model(request.weights, request.buffers), parts)
        by_split = finite(request, logits)
        if isinstance(request, HistogramRequest):
            sums = {split: measurement.histograms(request, split, own) for split, own in by_split.items()}
            return Reply(self.name, request.round, sums=sums, seconds={"evaluate": time.perf_counter() - began})
        measured = {split: measurement.figures(request, split, own) for split, own in by_split.items()}
        if members is not None and all(map(measurement.enough, (members, self.store.splits["test"]))):
            attack = attack_members(self.store, members, logits[-1], by_split["test"])
            measured["test"].figures["membership"] = attack
        if isinstance(request, MeasureRequest) and request.monitoring:
            rendered = self.store if self.stain is None else self.stain.rendered
            for split, own in by_split.items():
                measured[split].sums["monitoring"] = measurement.monitored(request, split, own, rendered)
        if self.role == "train":
            measured |= self._measure_personal_models(request, measurement)
        return Reply(
            self.name,
            request.round,
            metrics={split: own.figures for split, own in measured.items()},
            sums={split: own.sums for split, own in measured.items() if own.sums},
            curves={split: own.curves for split, own in measured.items() if own.curves},
            seconds={"evaluate": time.perf_counter() - began},
        )

    def _fit_sums(self, request: TemperatureRequest | ScalingRequest, began: float) -> Reply:
        """Sums by which a calibration is fitted; the model's logits serve all messages of a fit."""
        own_model = self.own_model(request.weights, request.buffers)
        logits = self._fit_logits.of(request, self.evaluator, self.batches, *own_model)
        measurement = Measurement(self.store, self.shared.model.spec.classes, self.training)
        by_split = finite(request, logits)
        sums = {split: measurement.sums(request, split, own) for split, own in by_split.items()}
        return Reply(self.name, request.round, sums=sums, seconds={"evaluate": time.perf_counter() - began})

    def _measure_personal_models(self, request: Request, measurement: Measurement) -> dict[str, SiteMeasurement]:
        """Measure the further models that methods name."""
        measured: dict[str, SiteMeasurement] = {}
        for method in self.shared.chain.acting("personal_models"):
            for name, model in method.personal_models(self.state, request.weights).items():
                weights, buffers = (model, request.buffers) if isinstance(model, Tensor) else model
                logits = self.evaluator.logits_of_each(*self.own_model(weights, buffers), request.splits)
                for split, own in finite(request, logits).items():
                    measured[f"{split}_{name}"] = measurement.figures(request, split, own, personal=True)
        return measured

    def begin(self, request: TrainRequest) -> SiteContext:
        """Start a round: the received model loaded, with this site's own layers where the method keeps them local, and
        moved to where the methods want training to start."""
        bench, work, model = self.shared, self.training, self.shared.model
        model.load(*self.own_model(request.weights, request.buffers))
        local = SiteContext(
            model=model,
            received=bench.copied("received", model.vector),
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
            patches=lambda: self.images.training_patches,
            local_layers=self.local_layers,
        )
        bench.chain.call("before_training", local)
        moved = bench.chain.acts("before_training")
        local.start = bench.copied("start", model.vector) if moved else local.received
        return local

    def _train(self, request: TrainRequest) -> tuple[SiteContext, float]:
        """Local steps from the received model; the network ends at e. Returns the round and the mean loss."""
        local = self.begin(request)
        rows, groups = self.store.splits["train"], self.store.groups
        mean_loss = float(take_steps(local, self.shared, self.training, self.batches, rows, groups))
        if not math.isfinite(mean_loss):
            raise SiteDiverged(f"the training loss is not finite in round {request.round}")
        return local, mean_loss

    def _update(self, local: SiteContext, request: TrainRequest) -> Tensor:
        """w - endpoint in wire order, with endpoint = s - u, and e where layers stay at the site."""
        bench, model = self.shared, self.shared.model
        bench.chain.call("make_update", local)
        self._keep_norms(local.new_state)
        if local.new_state:
            self._memory = self._memory.proposing(request.round, local.new_state)
        displacement = local.displacement
        if displacement is None:
            displacement = torch.sub(local.start, model.vector, out=local.vector("displacement"))
        if local.start is not local.received:
            displacement = displacement + (local.received - local.start)
        update = model.layout.pack(displacement)
        if self.local_norms:
            wire = self.local_layers.wire
            update[wire] = request.weights[wire] - local.new_state["norms"].cpu()
        return update.to(self.training.update_dtype).float()
