"""Small sites and models for tests of the training core."""

from __future__ import annotations

import torch

from medfl.data.batches import AugmentSpec
from medfl.data.patch_store import PatchStore
from medfl.federation.callbacks import Callback
from medfl.federation.rounds import Federation
from medfl.federation.server_state import FederationConfig, ServerState
from medfl.federation.transport import InProcess
from medfl.methods.core.chain import build_chain
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.site.shared_model import LocalTrainingConfig, SharedModel
from medfl.site.site import Site
from medfl.testing.toy_federation import toy_store as patches_of_three_classes

CLASSES = ("a", "b", "c")
SIZE = 32
BACKBONE = "medfl_toy"  # two convolutions; tests of what takes a real network name timm's `test_byobnet`


def toy_store(name: str, seed: int, train: int = 24, val: int = 12, test: int = 12, size: int = SIZE) -> PatchStore:
    """Patches whose class shows as a bright band, two patches a source group."""
    return patches_of_three_classes(name, seed, train, val, test, size)


def toy_bench(method=(), seed: int = 0, backbone: str = BACKBONE, **kwargs) -> SharedModel:
    model = FlatModel(ModelSpec(backbone, CLASSES, **kwargs), torch.device("cpu"), seed=seed)
    return SharedModel(model, build_chain(method))


def toy_work(**changes) -> LocalTrainingConfig:
    settings = {"batch_size": 8, "lr": 0.05, "augment": AugmentSpec(), "seed": 3} | changes
    return LocalTrainingConfig(**settings)


def toy_sites(
    bench: SharedModel, sizes=(24, 16, 32), work: LocalTrainingConfig | None = None, **kwargs
) -> dict[str, Site]:
    return {
        f"site-{i}": Site(f"site-{i}", "train", toy_store(f"site-{i}", i, train=n), work or toy_work(), bench, **kwargs)
        for i, n in enumerate(sizes)
    }


class Recorder(Callback):
    """Keeps the records of rounds."""

    def __init__(self, records: list[dict]) -> None:
        self.records = records

    def after_round(self, record, state) -> None:
        self.records.append(record)


def toy_federation(bench: SharedModel, sites: dict[str, Site], state: ServerState | None = None, rounds=2, **plan):
    """(federation, records): records fills while it runs."""
    records: list[dict] = []
    settings = {
        "train_sites": tuple(n for n, s in sites.items() if s.role == "train"),
        "held_out_sites": tuple(n for n, s in sites.items() if s.role == "held_out"),
        "rounds": rounds,
        "seed": 3,
        "stages": bench.model.layout.stages(),
        "momentum": next(iter(sites.values())).training.momentum,
        "lr": next(iter(sites.values())).training.lr,
    } | plan
    state = state or ServerState(0, bench.model.weights(), bench.model.buffers())
    federation = Federation(FederationConfig(**settings), InProcess(sites), state, [Recorder(records)], bench.chain)
    return federation, records


def toy_run(
    method=(), rounds: int = 2, sizes=(24, 16, 32), work: LocalTrainingConfig | None = None, backbone=BACKBONE, **plan
):
    """(final state, records) of a fresh toy federation."""
    bench = toy_bench(method, backbone=backbone)
    federation, records = toy_federation(bench, toy_sites(bench, sizes, work), rounds=rounds, **plan)
    return federation.run(), records
