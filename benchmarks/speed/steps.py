"""What a method's round costs over FedAvg's, and FedAvg's over a plain training loop. CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import nn

from benchmarks.speed.figure import Figure, interleaved
from benchmarks.speed.workload import CLASSES, METHOD, PLAIN, SMALL, Rounds, store, work, workbench
from medfl.data.batches import Batches, epoch_order

METHODS: dict[str, tuple[METHOD, dict[str, float], float]] = {
    "fedprox": (["fedprox"], {}, 1.10),
    "scaffold": (["scaffold"], {}, 1.08),
    "fednova": (["fednova"], {}, 1.10),
    "feddyn": (["feddyn"], {}, 1.05),
    "fedlc": (["fedlc"], {}, 1.05),
    "fedrdn": (["fedrdn"], {}, 1.05),
    "lips": (["lips"], {}, 1.10),
    "pflalign": (["pflalign"], {"momentum": 0.0}, 1.25),
}
LOOK, LEARN = "a forward pass", "a forward and backward pass"
PASSES: dict[str, tuple[str, ...]] = {"fedsam": (LEARN, LEARN), "moon": (LOOK, LOOK, LEARN)}
"""What a step needs, a method's own arithmetic aside: MOON looks with the global and with the site's last model."""


def one_site(backbone: str, size: int, steps: int, method: METHOD, **changes: Any) -> Rounds:
    """A federation of one site with enough patches for one pass."""
    return Rounds(workbench(backbone, method), [store("site", 330, size)], work(steps, **changes))


def plain_loop(backbone: str, size: int, steps: int, passes: Sequence[str] = (LEARN,)) -> Callable[[], None]:
    """PyTorch's default SGD over the same batches: a timm network, cross entropy, `set_to_none=True`; with so many
    passes of each batch."""
    net = timm.create_model(backbone, num_classes=len(CLASSES))
    config = timm.data.resolve_model_data_config(net)
    patches = store("site", 330, size)
    batches = Batches(patches, torch.device("cpu"), config["mean"], config["std"], PLAIN)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    net.train()

    def loop() -> None:
        order = epoch_order(patches.splits["train"], 32, steps, seed=1)
        for images, labels in batches.training(order, seed=1):
            for each in passes:
                optimizer.zero_grad(set_to_none=True)
                with torch.set_grad_enabled(each == LEARN):
                    loss = criterion(net(images), labels)
                if each == LEARN:
                    loss.backward()
            optimizer.step()

    return loop


def fedavg_over_plain(repeats: int) -> Iterator[Figure]:
    """Images a second of a FedAvg round over those of a plain loop over the same tensors, 30 steps of 32."""
    for backbone, size, each in ((SMALL, 64, 4 * repeats), ("resnet18", 64, repeats)):
        steps = 30
        round_, plain = interleaved(
            [one_site(backbone, size, steps, []).play, plain_loop(backbone, size, steps)], repeats=each
        )
        yield Figure(
            f"FedAvg round, images/s, {backbone} {size} px",
            "plain PyTorch loop over the same tensors",
            plain / round_,
            target=0.97,
            at_least=True,
            detail={"round_s": round_, "plain_s": plain},
        )


def ecgr_over_fedavg(repeats: int) -> Iterator[Figure]:
    """A round of 50 steps with ECGR over one without."""
    for size, target, each in ((64, 1.13, repeats), (128, 1.03, max(3, repeats // 2))):
        fedavg, ecgr = interleaved(
            [one_site("resnet18", size, 50, []).play, one_site("resnet18", size, 50, ["ecgr"]).play], repeats=each
        )
        yield Figure(
            f"ECGR round, 50 steps, resnet18 {size} px",
            "FedAvg round",
            ecgr / fedavg,
            target=target,
            detail={"ecgr_s": ecgr, "fedavg_s": fedavg},
        )


def methods_over_fedavg(repeats: int) -> Iterator[Figure]:
    """A round of 20 steps, resnet18 at 64 px, with each method over one without; the two alone in turns."""
    for name, (method, changes, target) in METHODS.items():
        pair = [one_site("resnet18", 64, 20, []), one_site("resnet18", 64, 20, method, **changes)]
        fedavg, seconds = interleaved([rounds.play for rounds in pair], repeats=max(7, repeats))
        yield Figure(
            f"{name} round, 20 steps, resnet18 64 px",
            "FedAvg round",
            seconds / fedavg,
            target=target,
            detail={f"{name}_s": seconds, "fedavg_s": fedavg},
        )


def passes_over_plain(repeats: int) -> Iterator[Figure]:
    """A round of 20 steps, resnet18 at 64 px, of methods that see a batch more than once, over those passes alone."""
    for name, passes in PASSES.items():
        round_, plain = interleaved(
            [one_site("resnet18", 64, 20, [name]).play, plain_loop("resnet18", 64, 20, passes)], repeats=max(7, repeats)
        )
        yield Figure(
            f"{name} round, 20 steps, resnet18 64 px",
            f"plain PyTorch loop of {' and '.join(passes)} a step",
            round_ / plain,
            target=1.05,
            detail={f"{name}_s": round_, "plain_s": plain},
        )


def stain_over_fedavg(repeats: int) -> Iterator[Figure]:
    """A round of 2 steps of 32 patches at 128 px with a random laboratory for each patch over one without."""
    for backbone in ("resnet18", "tf_efficientnet_lite0"):
        augment = replace(PLAIN, stain=0.5)
        rounds = [one_site(backbone, 128, 2, []), one_site(backbone, 128, 2, [], augment=augment)]
        fedavg, stained = interleaved([round_.play for round_ in rounds], repeats=repeats)
        yield Figure(
            f"FedAvg round with `augment.stain`, 2 steps, {backbone} 128 px",
            "FedAvg round",
            stained / fedavg,
            target=1.10,
            detail={"stained_s": stained, "fedavg_s": fedavg},
        )
