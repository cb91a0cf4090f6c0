"""Sites with uint8 patches of any size and number, and the rounds that are timed. Needs no more than the core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfl.data.batches import AugmentSpec
from medfl.data.patch_store import PatchStore
from medfl.federation.rounds import Federation
from medfl.federation.schedule import Schedule
from medfl.federation.server_state import FederationConfig, ServerState
from medfl.federation.transport import InProcess
from medfl.messages import Reply
from medfl.methods.core.chain import build_chain
from medfl.metrics.record_types import RoundRecord
from medfl.model import allocator
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.site.shared_model import LocalTrainingConfig, SharedModel
from medfl.site.site import Site

CLASSES = ("lung_aca", "lung_n", "lung_scc", "colon_aca", "colon_n")
SMALL = "test_byobnet"  # 0.2 M parameters
METHOD = list[str | Mapping[str, Any]]
PLAIN = AugmentSpec(flips=False, rotate90=False)
"""No augmentation, so that a plain loop can see the same tensors."""
Batch = tuple[Tensor, Tensor]


def store(name: str, patches: int, size: int, val: int = 10, seed: int = 0) -> PatchStore:
    """Smooth colour noise, five classes, five patches a source group; the last `val` rows are validation data."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 250, (patches, 4, 4, 3), dtype=np.uint8)
    images = coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
    rows = np.arange(patches)
    return PatchStore(
        site=name,
        images=images,
        labels=rows % len(CLASSES),
        groups=rows // 5,
        splits={"train": rows[: patches - val], "val": rows[patches - val :]},
        digest=f"noise-{seed}",
    )


def workbench(backbone: str, method: METHOD, device: str = "cpu", **settings: Any) -> SharedModel:
    """A fresh network and its chain. `settings`: channels_last, train; precision, compiled."""
    allocator.keep_freed()  # as a run does; what is measured beside it in this process has it too
    of_network = {key: settings.pop(key) for key in ("channels_last", "train") if key in settings}
    spec = ModelSpec(backbone, CLASSES, **of_network)
    return SharedModel(FlatModel(spec, torch.device(device), seed=1), build_chain(method), **settings)


def work(
    steps: int, batch_size: int = 32, lr: float = 1e-3, momentum: float = 0.9, **changes: Any
) -> LocalTrainingConfig:
    """Local work of a number of steps, without augmentation unless asked for."""
    return LocalTrainingConfig(
        batch_size=batch_size, local_steps=steps, lr=lr, momentum=momentum, **({"augment": PLAIN} | changes)
    )


class Rounds:
    """A federation whose rounds are played one at a time, without evaluation."""

    def __init__(
        self,
        bench: SharedModel,
        stores: Sequence[PatchStore],
        local: LocalTrainingConfig,
        kind: type[Site] = Site,
        schedule: Schedule | None = None,
        **plan: Any,
    ) -> None:
        self.sites = {s.site: kind(s.site, "train", s, local, bench) for s in stores}
        settings: dict[str, Any] = {
            "train_sites": tuple(self.sites),
            "held_out_sites": (),
            "rounds": 10**6,
            "seed": 1,
            "stages": bench.model.layout.stages(),
            "evaluate_every": 10**6,
            "momentum": local.momentum,
            "lr": local.lr,
        }
        state = ServerState(1, bench.model.weights(), bench.model.buffers())
        self._steps = 0.0
        for site in self.sites.values():
            site.batches.training = self._timed(site.batches.training)  # type: ignore[method-assign, assignment, arg-type]
        self.federation = Federation(
            FederationConfig(**settings | plan), InProcess(self.sites), state, chain=bench.chain, schedule=schedule
        )

    def play(self) -> RoundRecord:
        """One round: every participant's local steps, and all that goes with them. Returns its record."""
        record = self.federation.run_round()
        if record["failures"] or not record["counted"]:
            raise RuntimeError(f"the round failed: {record['failures']}")
        return record

    def step_seconds(self) -> float:
        """Seconds between the first batch asked for and the end of the last step, of all sites since the last call."""
        found, self._steps = self._steps, 0.0
        return found

    def _timed(self, training: Callable[[Tensor, int], Iterator[Batch]]) -> Callable[[Tensor, int], Iterator[Batch]]:
        def batches(order: Tensor, seed: int) -> Iterator[Batch]:
            began = time.perf_counter()
            yield from training(order, seed)
            self._steps += time.perf_counter() - began

        return batches


def replies(count: int, like: SharedModel, seed: int = 0) -> list[Reply]:
    """Trained replies with random updates."""
    generator = torch.Generator().manual_seed(seed)
    weights, buffers = like.model.weights(), like.model.buffers()
    updates = [torch.randn(weights.shape, generator=generator) * 1e-3 for _ in range(count)]
    return [
        Reply(
            f"site-{k}",
            1,
            samples=100 + k,
            steps=10,
            update=update,
            buffers=buffers.clone(),
            train_loss=1.0,
        )
        for k, update in enumerate(updates)
    ]
