"""From a pipeline to a run that is ready: data dealt and rendered, model built, plan made, sites in reach."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch

from medfl import config
from medfl.data.bag_store import UNSTATED, BagStore, FeatureOrigin, check_origins, common_origin
from medfl.data.grey_levels import store_warnings
from medfl.data.partition import Partition, make_partition
from medfl.data.patch_store import PatchStore
from medfl.data.render import warn_of_resolution
from medfl.data.sources.source_registry import drawn_data
from medfl.data.subgroup_notes import without_subgroups
from medfl.federation.callbacks import Callback
from medfl.federation.checked_transport import CheckedTransport
from medfl.federation.rounds import Federation
from medfl.federation.server_state import FederationConfig, ServerState
from medfl.federation.transport import InProcess, Transport
from medfl.messages import POOL
from medfl.metrics.record_types import Role
from medfl.pipeline.build_federation import build_schedule, federation_config
from medfl.pipeline.build_site import build_sites, checked_shared_model, pooled_site, views
from medfl.pipeline.cores import Cores, cores_of, worker_device
from medfl.pipeline.site_stores import SiteStores
from medfl.pipeline.workers.worker_transport import WorkerTransport, can_inherit
from medfl.runs.progress import ProgressCallbacks
from medfl.site.shared_model import SharedModel
from medfl.site.site import Site


@dataclass(kw_only=True)
class RunSetup:
    """What the server of a run knows: the pipeline, its model and plan, and how the sites are reached.

    Attributes:
        shared: the network and the method.
        groups_unknown: source groups of some site are unknown.
        origin: what made the features, where sites hold bags of them.
        sites: the sites that live in this process; none where an engine reaches them in theirs.
        seconds: what the preparation took.
    """

    pipeline: config.Pipeline
    shared: SharedModel
    config: FederationConfig
    groups_unknown: bool
    origin: FeatureOrigin = UNSTATED
    sites: dict[str, Site] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def roles(self) -> dict[str, Role]:
        """Site -> "train" or "held_out", in the pipeline's order."""
        return {site.name: site.role or "train" for site in self.pipeline.all_sites}

    @cached_property
    def transport(self) -> Transport:
        """How messages reach the sites; what they answer has been checked."""
        personal = self.shared.chain.acts("personal_models")
        pipeline, wanted = self.pipeline, self.pipeline.evaluation
        return CheckedTransport(self.line, pipeline.task.classes, wanted.bins, personal, tuple(wanted.columns))

    @property
    def line(self) -> Transport:
        """How messages reach the sites, as the engine does it."""
        raise NotImplementedError

    def begin(self) -> None:
        """Start what is to run beside this process, before it has threads of its own."""

    def close(self) -> None:
        """End what `begin` started."""

    def federation(self, state: ServerState, callbacks: Sequence[Callback] = ()) -> Federation:
        """The round loop from a state on, under the schedule that the pipeline asks for."""
        chain = self.shared.chain
        return Federation(self.config, self.transport, state, callbacks, chain, build_schedule(self.pipeline, chain))

    def initial_state(self) -> ServerState:
        """Round 0: the model as it was built."""
        return ServerState(0, self.shared.model.weights(), self.shared.model.buffers())


@dataclass(kw_only=True)
class LocalRunSetup(RunSetup):
    """A pipeline with its data dealt and rendered, its model built, and its sites ready in this process."""

    partition: Partition
    warnings: tuple[str, ...] = ()
    """What looks wrong with the patches of some site."""

    @property
    def line(self) -> Transport:
        """The in-process engine over these sites, and over their pooled data where the baseline asks for it; in workers
        where the pipeline wants some."""
        if self.workers is not None:
            return self.workers
        pooled: dict[str, Site] = {POOL: pooled_site(self.sites)} if self.pipeline.baseline == "centralised" else {}
        return InProcess(self.sites | pooled)

    @cached_property
    def cores(self) -> Cores:
        """What the run uses of this machine."""
        on_gpu = self.shared.model.device.type == "cuda"
        return cores_of(self.pipeline, torch.cuda.device_count() if on_gpu else 0)

    @cached_property
    def workers(self) -> WorkerTransport | None:
        """The workers that the pipeline wants; None where sites train in this process."""
        if self.cores.workers == 1:
            return None
        threads = self.cores.threads
        again = partial(sites_anew, self.pipeline, self.partition)
        inherit = can_inherit(self.shared.model.device, threads)
        limit = self.pipeline.training.answer_seconds
        return WorkerTransport(self.sites, self.cores.workers, threads, again, inherit, limit)

    def begin(self) -> None:
        """Start the workers."""
        if self.workers is not None:
            self.workers.start()

    def close(self) -> None:
        """End the workers."""
        if self.workers is not None:
            self.workers.close()


def sites_anew(pipeline: config.Pipeline, partition: Partition, worker: int) -> dict[str, Site]:
    """A pipeline's sites in a process that has none yet, the worker of that number, on the device that is its own."""
    training = pipeline.training
    own = training.model_copy(update={"device": worker_device(training.device, worker, torch.cuda.device_count())})
    return prepare(pipeline.model_copy(update={"training": own}), partition=partition).sites


def prepare(
    pipeline: config.Pipeline, watcher: ProgressCallbacks | None = None, partition: Partition | None = None
) -> LocalRunSetup:
    """Deal and render the data, build the model and the sites.

    Args:
        pipeline: as `load_pipeline` returns it, which has checked its rules.
        watcher: who is told.
        partition: what the pipeline's sites hold, where that has been dealt already.

    Raises:
        MedflError: anything wrong with data, model or method, by name.
    """
    watcher = watcher or ProgressCallbacks()
    for notice in pipeline.notices:
        watcher.say(notice)
    began = time.perf_counter()
    shared = checked_shared_model(pipeline)
    for what in drawn_data(pipeline.model_dump()):
        watcher.say(f"{what}: generated from a seed and kept in the cache for the next run")
    if views(pipeline):
        watcher.say("Features: each patch goes through the frozen backbone once; they are kept beside the patches")
    if partition is None:
        partition = make_partition(pipeline)
    for sentence in (*partition.dropped(), *without_subgroups(partition)):
        watcher.say(sentence)
    by_name = {site.name: site for site in pipeline.all_sites}
    warn_of_resolution(pipeline, pipeline.all_sites)
    site_stores = SiteStores(pipeline, watcher.say)
    stores = {share.site: site_stores.of(by_name[share.site], share) for share in partition.sites}
    origins = {name: store.origin for name, store in stores.items() if isinstance(store, BagStore)}
    pictures = {name: store for name, store in stores.items() if isinstance(store, PatchStore)}
    warnings = (*store_warnings(pictures), *check_origins(origins))
    for warning in warnings:
        watcher.say(f"WARNING: {warning}")
    return LocalRunSetup(
        pipeline=pipeline,
        shared=shared,
        config=federation_config(pipeline, shared.model),
        groups_unknown=partition.groups_unknown,
        origin=common_origin(origins.values()),
        sites=build_sites(pipeline, stores, shared),
        partition=partition,
        warnings=warnings,
        seconds=time.perf_counter() - began,
    )
