"""From a pipeline file to sites that are ready to train: data dealt and rendered, model built, plan made."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from medfl import config
from medfl.data.batches import AugmentSpec, Jitter
from medfl.data.partition import Partition, make_partition
from medfl.data.patch_store import PatchStore
from medfl.data.render import render
from medfl.errors import MedflError
from medfl.federation.asynchronous import SimulatedAsync, WallClockAsync
from medfl.federation.baselines import CentralisedRounds, LocalOnlyRounds, pooled_site
from medfl.federation.rounds import Federation
from medfl.federation.server_state import FederationConfig, ServerState
from medfl.federation.transport import InProcess, Transport
from medfl.federation.virtual_time import SiteSpeed
from medfl.messages import POOL
from medfl.methods.core.chain import MethodChain
from medfl.methods.fedgmr_rules import maskable_slots
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.pipeline.load_pipeline import check_method
from medfl.seeds import seed_for
from medfl.site.shared_model import LocalTrainingConfig, SharedModel
from medfl.site.site import Site


@dataclass(frozen=True)
class ProgressCallbacks:
    """Who is told about progress: `say` one line of text, `round` every round record and the number of rounds, and
    `saved`, from another thread, that a further round is on disk."""

    say: Callable[[str], None] = lambda text: None
    round: Callable[[Mapping[str, Any], int], None] = lambda record, rounds: None
    saved: Callable[[], None] = lambda: None


@dataclass(kw_only=True)
class RunSetup:
    """What the server of a run knows: the pipeline, its model and plan, and how the sites are reached.

    Attributes:
        leaky: source groups of some site are unknown.
        sites: the sites that live in this process; none where an engine reaches them in theirs.
        seconds: what the preparation took.
    """

    pipeline: config.Pipeline
    shared: SharedModel
    config: FederationConfig
    groups_unknown: bool
    sites: dict[str, Site] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def roles(self) -> dict[str, str]:
        """Site -> "train" or "held_out", in the pipeline's order."""
        return {site.name: site.role or "train" for site in self.pipeline.all_sites}

    @cached_property
    def transport(self) -> Transport:
        """How messages reach the sites."""
        raise NotImplementedError

    def federation(self, state: ServerState, after_round: Callable[[dict[str, Any], ServerState], None]) -> Federation:
        """The round loop that the method asks for."""
        chain = self.shared.chain
        asks = chain.arm or ("sync" if chain.async_schedule(len(self.config.train_sites)) is None else "async")
        unsynchronised = WallClockAsync if self.pipeline.training.clock == "wall" else SimulatedAsync
        kinds = {
            "sync": Federation,
            "async": unsynchronised,
            "local_only": LocalOnlyRounds,
            "centralised": CentralisedRounds,
        }
        return kinds[asks](self.config, self.transport, state, after_round, chain)

    def initial_state(self) -> ServerState:
        """Round 0: the model as it was built."""
        return ServerState(0, self.shared.model.weights(), self.shared.model.buffers())


@dataclass(kw_only=True)
class LocalRunSetup(RunSetup):
    """A pipeline with its data dealt and rendered, its model built, and its sites ready in this process."""

    partition: Partition

    @cached_property
    def transport(self) -> Transport:
        """The in-process engine over these sites, and over their pooled data where the method asks for it."""
        pooled = {POOL: pooled_site(self.sites)} if self.shared.chain.arm == "centralised" else {}
        return InProcess(self.sites | pooled)


def prepare(pipeline: config.Pipeline, watcher: ProgressCallbacks | None = None) -> LocalRunSetup:
    """Deal and render the data, build the model and the sites.

    Raises:
        MedflError: anything wrong with data, model or method, by name.
    """
    watcher = watcher or ProgressCallbacks()
    began = time.perf_counter()
    bench = checked_shared_model(pipeline)
    if pipeline.data.source == "tissue" and pipeline.data.root is None:
        watcher.say("Tissue: generated from a seed and kept in the cache for the next run")
    allocation = make_partition(pipeline)
    by_name = {site.name: site for site in pipeline.all_sites}
    stores = {share.site: render(pipeline, by_name[share.site], share) for share in allocation.sites}
    return LocalRunSetup(
        pipeline=pipeline,
        shared=bench,
        config=federation_config(pipeline, bench.model),
        groups_unknown=allocation.groups_unknown,
        sites=build_sites(pipeline, stores, bench),
        partition=allocation,
        seconds=time.perf_counter() - began,
    )


def checked_shared_model(pipeline: config.Pipeline) -> SharedModel:
    """The pipeline's method and model together, this process's threads set.

    Raises:
        MedflError: a method that contradicts the pipeline or the model, a device that is not there.
    """
    chain = check_method(pipeline, pipeline.name)
    if (pipeline.training.buffers == "local" or chain.local_norms) and pipeline.select != "last":
        raise MedflError("`select` must be last where normalisation is local: sites keep only their latest statistics")
    device = resolve_device(pipeline.training.device)
    set_threads(pipeline)
    bench = build_shared_model(pipeline, chain, device)
    optimizer = pipeline.training.optimizer
    chain.check(bench.model, optimizer.name, optimizer.momentum, optimizer.weight_decay)
    return bench


def set_threads(pipeline: config.Pipeline) -> None:
    """As many threads for this process as the pipeline states, or as there are cores."""
    torch.set_num_threads(pipeline.training.threads or os.cpu_count() or 1)


def resolve_device(stated: str) -> torch.device:
    """ "auto" takes cuda, then mps, then the CPU. Raises MedflError for a device that is not there."""
    if stated == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(stated)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise MedflError(f"`training.device`: {stated} is not available here ({first}); use auto or cpu") from None
    return device


def build_shared_model(pipeline: config.Pipeline, chain: MethodChain, device: torch.device) -> SharedModel:
    """The one network and what goes with it."""
    training = pipeline.training
    on_cuda = device.type == "cuda"
    spec = ModelSpec(
        backbone=pipeline.model.backbone,
        classes=tuple(pipeline.task.classes),
        args=pipeline.model.args,
        pretrained=pipeline.model.pretrained,
        checkpoint=pipeline.model.checkpoint,
        channels_last=on_cuda if training.channels_last is None else training.channels_last,
    )
    model = FlatModel(spec, device, seed=seed_for(pipeline.seed, "init"))
    precision = ("bf16" if on_cuda else "float32") if training.precision == "auto" else training.precision
    return SharedModel(model, chain, precision=precision, compiled=training.compile)


def local_training_config(pipeline: config.Pipeline, site: config.SiteConfig) -> LocalTrainingConfig:
    """A site's local work: the pipeline's, with what the site states for itself."""
    training, augment = pipeline.training, pipeline.training.augment
    steps = site.local_steps or (None if site.local_epochs else training.local_steps)
    return LocalTrainingConfig(
        batch_size=training.batch_size,
        local_epochs=site.local_epochs or training.local_epochs,
        local_steps=steps,
        optimizer=training.optimizer.name,
        lr=training.optimizer.lr,
        momentum=training.optimizer.momentum,
        weight_decay=training.optimizer.weight_decay,
        weighted_loss=training.weighted_loss,
        augment=AugmentSpec(
            flips=augment.flips,
            rotate90=augment.rotate90,
            brightness=augment.brightness,
            contrast=augment.contrast,
            saturation=augment.saturation,
            hue=augment.hue,
        ),
        rounds=training.rounds,
        seed=pipeline.seed,
        eval_batch_size=pipeline.evaluation.batch_size,
        bins=pipeline.evaluation.bins,
    )


def build_sites(pipeline: config.Pipeline, stores: Mapping[str, PatchStore], bench: SharedModel) -> dict[str, Site]:
    """The pipeline's sites over their rendered stores; those without a store are elsewhere."""
    jitter: Jitter | None = None
    if pipeline.training.augment.jitter:
        from medfl.data.transforms import albumentations_jitter

        jitter = albumentations_jitter(pipeline.training.augment.jitter, f"{pipeline.name}: training.augment.jitter")
    buffers = "average" if bench.chain.arm else pipeline.training.buffers
    return {
        site.name: Site(
            site.name,
            site.role or "train",
            stores[site.name],
            local_training_config(pipeline, site),
            bench,
            jitter=jitter,
            buffers=buffers,
        )
        for site in pipeline.all_sites
        if site.name in stores
    }


def federation_config(pipeline: config.Pipeline, model: FlatModel) -> FederationConfig:
    """What the round loop needs to know of a pipeline."""
    training, select = pipeline.training, pipeline.select
    return FederationConfig(
        train_sites=tuple(site.name for site in pipeline.train_sites),
        held_out_sites=tuple(site.name for site in pipeline.held_out_sites),
        rounds=training.rounds,
        seed=pipeline.seed,
        stages=model.stages(),
        sites_per_round=training.sites_per_round,
        quorum=training.quorum,
        evaluate_every=training.evaluate_every,
        held_out_every=training.held_out_every,
        lr_scale=lambda t: lr_scale(training.schedule, t, training.rounds),
        select="last" if isinstance(select, str) else (select.metric, select.mode),
        momentum=training.optimizer.momentum,
        lr=training.optimizer.lr,
        site_speeds={site.name: SiteSpeed(**site.link.model_dump()) for site in pipeline.train_sites if site.link},
        densities={site.name: site.density for site in pipeline.train_sites},
        maskable=maskable_slots(model),
        fingerprint=model.fingerprint(),
    )


def lr_scale(schedule: config.Schedule, t: int, rounds: int) -> float:
    """Factor on the learning rate in round t of `rounds`."""
    warm = min(1.0, (t + 1) / (schedule.warmup + 1))
    if schedule.name == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * t / max(1, rounds)))
    if schedule.name == "step":
        return warm * schedule.gamma ** (t // schedule.every)
    return warm
