"""The one place where sites are built: the network of this process, and sites over their rendered patches."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from medfl import config
from medfl.config.program_parts import is_program
from medfl.data.bag_batches import BagBatches
from medfl.data.bag_store import BagStore, SiteStore
from medfl.data.batches import AugmentSpec, Batches, Jitter
from medfl.data.patch_store import PatchStore
from medfl.errors import MedflError
from medfl.messages import POOL, Request
from medfl.methods.core.chain import build_chain
from medfl.model import allocator
from medfl.model.flat_model import FlatModel
from medfl.pipeline.adaptation_needs import check_adaptation, stain_statistics_of
from medfl.pipeline.cores import cores_of
from medfl.pipeline.model_spec import model_at_a_site, model_spec
from medfl.pipeline.patient_budget import check_patient_privacy, patient_privacy
from medfl.seeds import seed_for
from medfl.site.feature_batches import FeatureBatches, PooledFeatures
from medfl.site.masked_site import MaskedSite
from medfl.site.shared_model import LocalTrainingConfig, Loss, SharedModel
from medfl.site.site import Site
from medfl.site.trial_pass import try_network

ON_GRADIENTS = ("on_gradient", "on_last_gradient", "modify_gradient", "optimizer_step", "ascend")
"""Phases in which a method sees or makes gradients."""


def checked_shared_model(pipeline: config.Pipeline) -> SharedModel:
    """The pipeline's method and model together, tried on a batch of the pipeline's patches; this process's threads set.

    Raises:
        MedflError: a wrong chain, a method that contradicts the model, a device that is not there, a network that
            cannot take such patches, a loss that gives none.
    """
    prepare_process(pipeline)
    shared = build_shared_model(pipeline)
    optimizer = pipeline.training.optimizer
    shared.chain.check(shared.model, optimizer.name, optimizer.momentum, optimizer.weight_decay)
    check_precision(shared)
    check_patient_privacy(pipeline, shared)
    check_adaptation(pipeline.adapt, shared.model)
    try_network(shared, pipeline.data.size, pipeline.training.batch_size, program_loss(pipeline))
    return shared


def check_architecture(pipeline: config.Pipeline) -> None:
    """Raise MedflError as `checked_shared_model` where machines elsewhere could not train the pipeline's network; the
    weights it starts from and the device are theirs."""
    model = model_at_a_site(pipeline).model_copy(update={"weights": "random", "sha256": None})
    training = pipeline.training.model_copy(update={"device": "cpu", "compile": False})
    checked_shared_model(pipeline.model_copy(update={"model": model, "training": training}))


def prepare_process(pipeline: config.Pipeline) -> None:
    """Give this process as many threads as the pipeline states, or `cores_of` finds, and an allocator for training."""
    torch.set_num_threads(cores_of(pipeline).threads)
    allocator.keep_freed()


def resolve_device(value: str) -> torch.device:
    """ "auto" takes cuda, then mps, then the CPU. Raises MedflError for a device that is not there."""
    if value == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(value)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MedflError(f"`training.device`: {value} is not available here ({first}); use auto or cpu") from None
    return device


def build_shared_model(pipeline: config.Pipeline) -> SharedModel:
    """The one network and what goes with it. Raises MedflError for a wrong chain or a device that is not there."""
    training, chain, device = pipeline.training, build_chain(pipeline.method), resolve_device(pipeline.training.device)
    on_cuda = device.type == "cuda"
    resting = pipeline.model.train == "head"  # forward passes only, which that layout makes faster on a CPU too
    channels_last = on_cuda or resting if training.channels_last is None else training.channels_last
    spec = dataclasses.replace(model_spec(pipeline), channels_last=channels_last)
    model = FlatModel(spec, device, seed=seed_for(pipeline.seed, "init"))
    return SharedModel(model, chain, precision=resolve_precision(training.precision, device), compiled=training.compile)


def resolve_precision(value: str, device: torch.device) -> str:
    """ "auto" takes bf16 on a GPU that has it, else float32. Raises MedflError for what the device does not have."""
    on_cuda = device.type == "cuda"
    has_bf16 = not on_cuda or torch.cuda.is_bf16_supported(including_emulation=False)
    if value == "auto":
        return "bf16" if on_cuda and has_bf16 else "float32"
    if value == "fp16" and not on_cuda:
        raise MedflError(f"`training.precision`: fp16 needs a CUDA GPU, not {device}; use auto, bf16 or float32")
    if value == "bf16" and not has_bf16:
        name = torch.cuda.get_device_name(device)
        raise MedflError(f"`training.precision`: {name} has no bf16; use fp16, float32 or auto")
    return value


def check_precision(shared: SharedModel) -> None:
    """Raise MedflError where a method acts on gradients, which fp16 scales and now and then leaves out."""
    acting = [link for phase in ON_GRADIENTS for link in shared.chain.acting(phase)]
    if shared.precision == "fp16" and acting:
        raise MedflError(
            f"`training.precision`: fp16 scales gradients and leaves out steps in which they overflow, and "
            f"{acting[0].name} acts on each gradient; use bf16 or float32"
        )


def program_loss(pipeline: config.Pipeline) -> Loss | None:
    """The loss that a program hands over; None for cross entropy. Raises MedflError where one is named and not here."""
    if is_program(pipeline.training.loss) and pipeline.parts.loss is None:
        raise MedflError(
            f"`training.loss`: {pipeline.training.loss} is a loss of a program, which no file holds; hand it over "
            f"again from Python, `loss=...`"
        )
    loss: Loss | None = pipeline.parts.loss
    return loss


def _stated_weights(pipeline: config.Pipeline) -> tuple[float, ...] | None:
    """A weight for each class; 1 where none is stated. None where no class has one."""
    value = pipeline.training.class_weights
    return tuple(value.get(name, 1.0) for name in pipeline.task.classes) if value else None


def views(pipeline: config.Pipeline) -> int:
    """How often a frozen network sees a training patch: as stated, or once where nothing changes between the steps; 0
    where every step is another sight."""
    augment = pipeline.training.augment
    if pipeline.model.train != "head":
        return 0
    return augment.views or int(not _augment_spec(augment).acts)


def _augment_spec(augment: config.Augment) -> AugmentSpec:
    return AugmentSpec(
        flips=augment.flips,
        rotate90=augment.rotate90,
        brightness=augment.brightness,
        contrast=augment.contrast,
        saturation=augment.saturation,
        hue=augment.hue,
        jitter=json.dumps(augment.jitter) if augment.jitter else "",
        stain=augment.stain or 0.0,
        exchange=augment.exchange or 0.0,
        bag_dropout=augment.bag_dropout or 0.0,
    )


def _class_mix(pipeline: config.Pipeline, site: config.SiteConfig, store: SiteStore | None) -> tuple[float, ...] | None:
    """The share of each class at a site: as its file states it, or that of its training patches; None for neither."""
    classes = pipeline.task.classes
    if (mix := site.stated_mix(classes)) is not None:
        return mix
    if store is None or not len(rows := store.splits.get("train", ())):
        return None
    return tuple((np.bincount(store.labels[rows], minlength=len(classes)) / len(rows)).tolist())


def local_training_config(
    pipeline: config.Pipeline, site: config.SiteConfig, store: SiteStore | None = None
) -> LocalTrainingConfig:
    """A site's local work: the pipeline's, with what the site states for itself and its patches show."""
    training = pipeline.training
    steps = site.local_steps or (None if site.local_epochs else training.local_steps)
    work = LocalTrainingConfig(
        batch_size=training.batch_size,
        local_epochs=site.local_epochs or training.local_epochs,
        local_steps=steps,
        optimizer=training.optimizer.name,
        lr=training.optimizer.lr,
        momentum=training.optimizer.momentum,
        weight_decay=training.optimizer.weight_decay,
        clip=training.optimizer.clip,
        layer_decay=training.optimizer.layer_decay,
        weighted_loss=training.weighted_loss,
        class_weights=_stated_weights(pipeline),
        loss=pipeline.parts.loss,
        label_smoothing=training.label_smoothing,
        augment=_augment_spec(training.augment),
        rounds=training.rounds,
        seed=pipeline.seed,
        eval_batch_size=pipeline.evaluation.batch_size,
        bins=pipeline.evaluation.bins,
        min_count=pipeline.min_count(site),
        views=views(pipeline),
        class_mix=_class_mix(pipeline, site, store),
        stain_statistics=stain_statistics_of(pipeline),
        update_dtype=getattr(torch, pipeline.transport.dtype if pipeline.transport else "float32"),
    )
    patches = 0 if store is None else len(store.splits.get("train", ()))
    return dataclasses.replace(work, patients=patient_privacy(pipeline, work, patches))


def build_site(
    pipeline: config.Pipeline,
    site: config.SiteConfig,
    store: SiteStore,
    shared: SharedModel,
    jitter: Jitter | None = None,
) -> Site:
    """One site over its rendered patches or its bags; without a role it trains."""
    buffers = "average" if pipeline.baseline else pipeline.training.buffers
    work = local_training_config(pipeline, site, store)
    kind = MaskedSite if pipeline.training.secure_aggregation and site.role != "held_out" else Site
    return kind(site.name, site.role or "train", store, work, shared, jitter=jitter, buffers=buffers)


def build_sites(pipeline: config.Pipeline, stores: Mapping[str, SiteStore], shared: SharedModel) -> dict[str, Site]:
    """The pipeline's sites over their rendered stores, ready to train; those without a store are elsewhere."""
    jitter: Jitter | None = None
    if pipeline.training.augment.jitter:
        from medfl.data.transforms import albumentations_jitter, try_jitter

        where = f"{pipeline.name}: training.augment.jitter"
        try_jitter(pipeline.training.augment.jitter, pipeline.data.size, where)
        jitter = albumentations_jitter(pipeline.training.augment.jitter, where)
    sites = {
        site.name: build_site(pipeline, site, stores[site.name], shared, jitter)
        for site in pipeline.all_sites
        if site.name in stores
    }
    if not (pipeline.data.normalise or pipeline.training.augment.exchange):  # else once the stains are known
        for site in sites.values():
            site.compute_features()
    return sites


class PooledSite(Site):
    """All sites' training patches in one place, each site's in the stain that a message names.

    Args:
        parts: the training sites.
    """

    def __init__(self, parts: Sequence[Site]) -> None:
        first = parts[0]
        work = dataclasses.replace(first.training, local_steps=sum(steps_by_site(parts).values()))
        super().__init__(POOL, "train", pool([site.store for site in parts]), work, first.shared, first.jitter)
        self.parts = parts

    @cached_property
    def batches(self) -> Batches | FeatureBatches | BagBatches:
        """The patches, the features that the sites have computed of them, or bags."""
        if isinstance(self.store, BagStore):
            return super().batches
        parts = [site.batches for site in self.parts if isinstance(site.batches, FeatureBatches)]
        return PooledFeatures(self.images, parts) if parts else self.images

    def take_stains(self, request: Request) -> None:
        """See Site.take_stains."""
        before = [site.store for site in self.parts]
        for site in self.parts:
            site.take_stains(request)
        if any(site.store is not store for site, store in zip(self.parts, before, strict=True)):
            self.store = pool([site.store for site in self.parts])
            for made in ("images", "batches"):
                self.__dict__.pop(made, None)


def steps_by_site(sites: Iterable[Site]) -> dict[str, int]:
    """Local steps of every training site."""
    return {s.name: s.training.steps(len(s.store.splits["train"])) for s in sites if s.role == "train"}


def pooled_site(sites: Mapping[str, Site]) -> PooledSite:
    """A site that holds a copy of all sites' training patches and takes as many local steps as they do together."""
    return PooledSite([sites[name] for name in sorted(sites) if sites[name].role == "train"])


def pool(stores: Sequence[SiteStore]) -> SiteStore:
    """The training patches or bags of several stores one after another, in memory; source groups stay apart."""
    rows = [store.splits["train"] for store in stores]
    labels = np.concatenate([store.labels[r] for store, r in zip(stores, rows, strict=True)])
    groups, first = [], 0
    for store, r in zip(stores, rows, strict=True):
        groups.append(store.groups[r] + first)
        first += int(store.groups.max(initial=-1)) + 1
    rest = (
        labels,
        np.concatenate(groups),
        {"train": np.arange(len(labels))},
        "+".join(store.digest for store in stores),
    )
    bags = [(store, row) for store, own in zip(stores, rows, strict=True) if isinstance(store, BagStore) for row in own]
    if bags:
        features = np.concatenate([store.features[store.offsets[row] : store.offsets[row + 1]] for store, row in bags])
        sizes = [store.sizes[row] for store, row in bags]
        return BagStore(POOL, features, np.concatenate([[0], np.cumsum(sizes)]), *rest)
    parts = zip(stores, rows, strict=True)
    return PatchStore(POOL, np.concatenate([s.images[r] for s, r in parts if isinstance(s, PatchStore)]), *rest)
