"""A federation of toy sites over the real sites, round loop, checkpoint and codec, for checks of methods."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medfl.data.batches import AugmentSpec
from medfl.data.patch_store import PatchStore
from medfl.engines.remote.codec import Bounds, pack, unpack_answer, unpack_request
from medfl.errors import MedflError
from medfl.federation.asynchronous import SimulatedAsync
from medfl.federation.rounds import Federation
from medfl.federation.schedule import Synchronous
from medfl.federation.server_state import FederationConfig, ServerState
from medfl.federation.virtual_time import SiteSpeed
from medfl.messages import Failure, Reply, Request, message_bytes
from medfl.methods.core.chain import MethodChain
from medfl.metrics.record_types import RoundRecord
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.runs.folder import RunFolder
from medfl.site.shared_model import LocalTrainingConfig, SharedModel
from medfl.site.site import Site
from medfl.testing.toy_network import BACKBONES

CLASSES = ("benign", "normal", "malignant")
NETWORKS = tuple(ModelSpec(backbone, CLASSES) for backbone in BACKBONES)
MOST_SITES = 12
ROUNDS = 4
SIZE = 8  # pixels
LR = 0.05


def toy_store(name: str, seed: int, train: int = 8, val: int = 6, test: int = 6, size: int = SIZE) -> PatchStore:
    """Patches of three classes, each of which shows as a bright colour; two patches a source group."""
    rng = np.random.default_rng(seed)
    total = train + val + test
    labels = rng.integers(0, len(CLASSES), total)
    labels[:3] = labels[train : train + 3] = labels[train + val : train + val + 3] = (0, 1, 2)
    images = rng.integers(0, 120, (total, size, size, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, label] += 90
    rows = np.arange(total)
    splits = {"train": rows[:train], "val": rows[train : train + val], "test": rows[train + val :]}
    if train == 0:
        splits = {"test": rows}
    return PatchStore(
        site=name, images=images, labels=labels.astype(np.int64), groups=rows // 2, splits=splits, digest=f"toy-{seed}"
    )


@dataclass
class ToyTransport:
    """Reaches toy sites in this process and notes what passes. An error at a site is raised, not told.

    Attributes:
        sites: by name.
        bounds: where given, every message goes through the engines' codec and back.
        lost: (round, site) of replies that never arrive: a message that is lost on its way back.
        absent: whether a lost message is one that the site was never asked.
        down, up: site -> bytes of the vectors of all messages that were answered, and of all trained replies.
        replies: the trained replies.
    """

    sites: Mapping[str, Site]
    bounds: Bounds | None = None
    lost: frozenset[tuple[int, str]] = frozenset()
    absent: bool = False
    down: dict[str, int] = field(default_factory=dict)
    up: dict[str, int] = field(default_factory=dict)
    replies: list[Reply] = field(default_factory=list)

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply | Failure]:
        """See medfl.federation.transport.Transport."""
        for name in sites:
            message = request(name)
            lost = (message.round, name) in self.lost
            if not (lost and self.absent):
                reply = self._handle(name, message)
            yield Failure(name, message.round, "the reply was lost") if lost else self._note(name, message, reply)

    def _handle(self, name: str, message: Request) -> Reply:
        if self.bounds is None:
            return self.sites[name].handle(message)
        reply = self.sites[name].handle(unpack_request(pack(message, self.bounds), self.bounds))
        answer = unpack_answer(pack(reply, self.bounds), name, message.round, self.bounds)
        assert isinstance(answer, Reply)
        return answer

    def _note(self, name: str, message: Request, reply: Reply) -> Reply:
        if reply.update is not None:
            self.up[name] = self.up.get(name, 0) + message_bytes(reply)
            self.replies.append(reply)
        self.down[name] = self.down.get(name, 0) + message_bytes(message)
        return reply


@dataclass
class ToyRun:
    """A federation of toy sites, run round by round.

    Attributes:
        chain: the method.
        federation, sites, transport: what runs.
        records: of the rounds so far.
    """

    chain: MethodChain
    federation: Federation
    sites: dict[str, Site]
    transport: ToyTransport
    records: list[RoundRecord] = field(default_factory=list)

    @property
    def state(self) -> ServerState:
        """The server's."""
        return self.federation.state

    def rounds(self, count: int) -> ToyRun:
        """Run so many rounds more."""
        for _ in range(count):
            self.records.append(self.federation.run_round())
        return self

    def site_state(self, name: str) -> Mapping[str, Tensor]:
        """What a site knows as its next request would find it."""
        memory = self.sites[name].memory()
        if memory.pending is not None and memory.pending[0] <= self.state.accepted.get(name, -1):
            return memory.pending[1]
        return memory.state

    def save(self, folder: Path) -> None:
        """Write a checkpoint, as a run does."""
        RunFolder(folder).save_checkpoint(self.state, [site.memory() for site in self.sites.values()], {})


def toy_run(
    chain: MethodChain,
    *,
    plain: bool = False,
    through_codec: bool = False,
    resume: Path | None = None,
    sites_per_round: int | None = None,
    lost: Iterable[tuple[int, str]] = (),
    absent: bool = False,
    block: int | None = None,
    networks: Sequence[ModelSpec] = NETWORKS,
) -> ToyRun:
    """A run that has not begun, or that goes on from a checkpoint.

    Args:
        chain: the method.
        plain: FedAvg in the method's place, with the network and the optimiser that the method would have.
        through_codec: let every message become bytes and back.
        resume: folder of the checkpoint.
        sites_per_round: participants drawn per round; None is all.
        lost, absent: see `ToyTransport`.
        block: most values of a gradient that come at a time (`Method.elementwise`); None is as many as in any run.
        networks: the first of these that the chain does not refuse is the one that trains.

    Raises:
        MedflError: the chain refuses every toy network.
    """
    momentum = 0.0 if any(method.replaces_optimiser for method in chain.methods) else 0.9
    model = _model(chain, momentum, networks)
    if block is not None:
        model.blocks = model.layout.blocks(block)
    training = LocalTrainingConfig(
        batch_size=4, local_steps=2, lr=LR, momentum=momentum, augment=AugmentSpec(), rounds=ROUNDS, seed=3
    )
    shared = SharedModel(model, MethodChain() if plain else chain)
    names = [f"site-{i}" for i in range(sites_needed(chain))]
    sites = {
        name: Site(name, "train", toy_store(name, i, train=8 + 2 * (i % 3)), training, shared)
        for i, name in enumerate(names)
    }
    transport = ToyTransport(sites, Bounds.of(model) if through_codec else None, frozenset(lost), absent)
    config = FederationConfig(
        tuple(names),
        (),
        rounds=ROUNDS,
        seed=3,
        stages=model.layout.stages(),
        sites_per_round=sites_per_round,
        evaluate_every=2,
        momentum=momentum,
        lr=LR,
        site_speeds={name: SiteSpeed(50.0, 10.0, 0.1 * (1 + i)) for i, name in enumerate(names)},
        densities={name: (0.6, 0.3, 1.0)[i % 3] for i, name in enumerate(names)},
        fingerprint=model.fingerprint(),
    )
    state = _resumed(resume, sites) if resume else ServerState(0, model.weights(), model.buffers())
    asynchronous = shared.chain.async_schedule(sites_per_round or len(names)) is not None
    schedule = SimulatedAsync() if asynchronous else Synchronous()
    federation = Federation(config, transport, state, chain=shared.chain, schedule=schedule)
    return ToyRun(shared.chain, federation, sites, transport)


def _resumed(folder: Path, sites: dict[str, Site]) -> ServerState:
    """The state of a checkpoint, with the sites' memories in their place."""
    checkpoint = RunFolder(folder).load_checkpoint(sites)
    assert checkpoint is not None
    return checkpoint[0]


def sites_needed(chain: MethodChain) -> int:
    """How many sites make a round count when one of them is not heard, at least three.

    Raises:
        MedflError: more than `MOST_SITES`.
    """
    for sites in range(3, MOST_SITES):
        with contextlib.suppress(MedflError):
            chain.async_schedule(sites - 1)
            if sites > chain.min_replies:
                return sites
    chain.async_schedule(MOST_SITES - 1)  # it says why
    raise MedflError(f"`method`: {chain} needs more than {MOST_SITES} sites; check it with smaller parameters")


def _model(chain: MethodChain, momentum: float, networks: Sequence[ModelSpec]) -> FlatModel:
    """The first network that no method of the chain refuses, always with the same weights."""
    refusals = []
    for spec in networks:
        model = FlatModel(spec, torch.device("cpu"), seed=1)
        try:
            chain.check(model, "sgd", momentum, 0.0)
        except MedflError as error:
            refusals.append(str(error))
        else:
            return model
    raise MedflError("; ".join(refusals))
