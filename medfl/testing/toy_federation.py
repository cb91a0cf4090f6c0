"""A federation of five small sites on drawn patches: seconds to train, and every part of it real."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfl.data.batches import AugmentSpec
from medfl.data.patch_store import PatchStore
from medfl.engines.remote.codec import Bounds, pack, unpack_answer, unpack_request
from medfl.errors import MedflError
from medfl.federation.asynchronous import SimulatedAsync
from medfl.federation.rounds import Federation
from medfl.federation.server_state import FederationConfig, ServerState
from medfl.federation.transport import InProcess
from medfl.federation.virtual_time import SiteSpeed
from medfl.messages import Failure, Reply, Request
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.method import Method
from medfl.methods.fedgmr_rules import maskable_slots
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.runs.folder import RunFolder
from medfl.site.shared_model import LocalTrainingConfig, SharedModel
from medfl.site.site import Site

CLASSES = ("a", "b", "c")
NETWORKS = (
    ModelSpec("resnet18", CLASSES, {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}),
    ModelSpec("test_efficientnet_ln", CLASSES),  # without BatchNorm, for methods that refuse it
)
SIZES = {"site-1": 4, "site-2": 6, "site-3": 8, "site-4": 4, "site-5": 10}  # training patches
SIDE = 16  # px
SEED = 3


class ToyTransport(InProcess):
    """Sites of this process, some of whose messages are lost.

    Args:
        sites: by name.
        lost: (round, site) whose reply is lost on the way: the site has done its work and nobody hears of it.
        absent: (round, site) that is not reached at all.
        bounds: where given, messages travel as bytes, through the codec of sites in processes of their own.
    """

    def __init__(
        self,
        sites: dict[str, Site],
        lost: Collection[tuple[int, str]] = (),
        absent: Collection[tuple[int, str]] = (),
        bounds: Bounds | None = None,
    ) -> None:
        super().__init__(sites)
        self.lost, self.absent, self.bounds = set(lost), set(absent), bounds
        self.replies: list[Reply] = []

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply | Failure]:
        """See `medfl.federation.transport.Transport.call`."""
        for name in sites:
            message = request(name)
            where = (message.round, name)
            if where in self.absent:
                yield Failure(name, message.round, "the site was not reached")
                continue
            if self.bounds is not None:
                message = unpack_request(pack(message, self.bounds), self.bounds)
            for answer in super().call([name], lambda _, message=message: message):  # type: ignore[misc]
                if self.bounds is not None:
                    answer = unpack_answer(pack(answer, self.bounds), name, message.round, self.bounds)
                if where in self.lost:
                    answer = Failure(name, message.round, "the reply was lost")
                elif isinstance(answer, Reply):
                    self.replies.append(answer)
                yield answer


class ToyFederation:
    """Five sites, one method, up to `rounds` rounds; the same draw every time.

    Attributes:
        records: of the rounds so far.
        sites, transport, federation: the parts.
    """

    def __init__(
        self,
        methods: Sequence[Method] = (),
        rounds: int = 4,
        lost: Collection[tuple[int, str]] = (),
        absent: Collection[tuple[int, str]] = (),
        through_bytes: bool = False,
        **settings: Any,
    ) -> None:
        chain = MethodChain(methods)
        model = network_for(chain)
        shared = SharedModel(model, chain)
        training = LocalTrainingConfig(
            batch_size=4, local_steps=2, lr=0.05, momentum=0.0, augment=AugmentSpec(), seed=SEED, rounds=rounds
        )
        self.sites = {
            name: Site(name, "train", toy_store(name, count, seed), training, shared)
            for seed, (name, count) in enumerate(SIZES.items())
        }
        asynchronous = chain.async_schedule(len(SIZES)) is not None
        speeds = {name: SiteSpeed(10.0, 5.0, 0.1 * (place + 1)) for place, name in enumerate(SIZES)}
        config = FederationConfig(
            tuple(SIZES),
            (),
            rounds,
            SEED,
            model.stages(),
            lr=training.lr,
            evaluate_every=2,
            site_speeds=speeds if asynchronous else {},
            densities={"site-1": 0.5},
            maskable=maskable_slots(model),
            fingerprint=model.fingerprint(),
            **settings,
        )
        self.records: list[dict[str, Any]] = []
        self.transport = ToyTransport(self.sites, lost, absent, Bounds.of(model) if through_bytes else None)
        state = ServerState(0, *initial(model.spec.backbone))
        kind = SimulatedAsync if asynchronous else Federation
        self.federation = kind(config, self.transport, state, lambda record, _: None, chain)

    @property
    def state(self) -> ServerState:
        """The server's."""
        return self.federation.state

    def run(self, rounds: int) -> ServerState:
        """Carry out so many more rounds."""
        for _ in range(rounds):
            self.records.append(self.federation.run_round())
        return self.state

    def save(self, folder: Path) -> None:
        """Write the checkpoint of a run folder."""
        RunFolder(folder).save_checkpoint(self.state, [site.memory() for site in self.sites.values()], {})

    def load(self, folder: Path) -> None:
        """Go on from the checkpoint of a run folder."""
        loaded = RunFolder(folder).load_checkpoint(self.sites)
        assert loaded is not None
        self.federation.resume_from(loaded[0])


@functools.cache
def network(number: int) -> FlatModel:
    """One of `NETWORKS`, built once."""
    return FlatModel(NETWORKS[number], torch.device("cpu"), seed=SEED)


@functools.cache
def initial(backbone: str) -> tuple[Tensor, Tensor]:
    """The weights f32[P] and buffers f32[B] that a network of `NETWORKS` was built with."""
    number = next(place for place, spec in enumerate(NETWORKS) if spec.backbone == backbone)
    return network(number).weights(), network(number).buffers()


def network_for(chain: MethodChain) -> FlatModel:
    """The first of `NETWORKS` that the methods can work with. Raises MedflError as the last one is refused."""
    for number in range(len(NETWORKS)):
        model = network(number)
        initial(model.spec.backbone)  # taken before anybody trains
        try:
            chain.check(model, "sgd", 0.0, 0.0)
        except MedflError:
            if number + 1 == len(NETWORKS):
                raise
        else:
            return model
    raise AssertionError("unreachable")


def toy_store(name: str, train: int, seed: int) -> PatchStore:
    """Patches u8 whose class shows as a bright channel; four further ones each for validation and test."""
    rng = np.random.default_rng(seed)
    total = train + 8
    labels = rng.integers(0, len(CLASSES), total)
    images = rng.integers(0, 120, (total, SIDE, SIDE, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[..., label] += 90
    rows = np.arange(total)
    splits = {"train": rows[:train], "val": rows[train : train + 4], "test": rows[train + 4 :]}
    return PatchStore(name, images, labels.astype(np.int64), rows // 2, splits, digest=f"toy-{seed}")
