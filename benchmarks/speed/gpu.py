"""The same questions on a GPU: resnet50, 224 px, bf16, channels_last, compiled, patches resident on the device.

Needs no more than the training core. `host_synchronisation` runs a local loop with CUDA's own check switched on, which
raises at the first operation that makes the host wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import timm
import torch
from torch import nn

from benchmarks.speed.figure import Figure, interleaved
from benchmarks.speed.workload import CLASSES, METHOD, PLAIN, Rounds, store, work, workbench
from medfl.data.batches import AugmentSpec, Batches, epoch_order
from medfl.messages import TrainRequest
from medfl.site.local_training import take_steps
from medfl.site.site import Site

BACKBONE, SIZE, BATCH, STEPS = "resnet50", 224, 64, 50
SETTINGS = {"channels_last": True, "precision": "bf16", "compiled": True}


def one_site(method: METHOD, steps: int = STEPS, augment: AugmentSpec = PLAIN) -> Rounds:
    """A federation of one site of 2,000 patches on the device."""
    local = work(steps, batch_size=BATCH, augment=augment)
    return Rounds(workbench(BACKBONE, method, "cuda", **SETTINGS), [store("site", 2000, SIZE)], local)


def synchronised(action: Callable[[], object]) -> Callable[[], None]:
    """The action, ended when the device has ended."""

    def run() -> None:
        action()
        torch.cuda.synchronize()

    return run


def plain_loop() -> Callable[[], None]:
    """A bare compiled loop over the same resident patches: PyTorch's default SGD."""
    device = torch.device("cuda")
    network = timm.create_model(BACKBONE, num_classes=len(CLASSES)).to(device, memory_format=torch.channels_last)
    config = timm.data.resolve_model_data_config(network)
    net, patches = torch.compile(network), store("site", 2000, SIZE)
    batches = Batches(patches, device, config["mean"], config["std"], PLAIN, channels_last=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    network.train()

    def loop() -> None:
        order = epoch_order(patches.splits["train"], BATCH, STEPS, seed=1)
        for images, labels in batches.training(order, seed=1):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = criterion(net(images), labels)  # type: ignore[no-untyped-call]
            loss.backward()
            optimizer.step()

    return loop


def fedavg_over_plain(repeats: int) -> Iterator[Figure]:
    """Images a second of a FedAvg round over those of a bare compiled loop."""
    round_, plain = interleaved([synchronised(one_site([]).play), synchronised(plain_loop())], repeats, warm=3)
    yield Figure(
        "FedAvg round, images/s, resnet50 224 px bf16 compiled",
        "bare compiled loop on resident data",
        plain / round_,
        target=0.93,
        at_least=True,
        detail={"images_per_s": BATCH * STEPS / round_, "round_s": round_, "plain_s": plain},
    )


def ecgr_over_fedavg(repeats: int) -> Iterator[Figure]:
    """A round of 50 steps with ECGR over one without."""
    games = [one_site([]), one_site(["ecgr"])]
    fedavg, ecgr = interleaved([synchronised(game.play) for game in games], repeats, warm=3)
    yield Figure(
        "ECGR round, 50 steps, resnet50 224 px bf16 compiled",
        "FedAvg round",
        ecgr / fedavg,
        target=1.02,
        detail={"ecgr_s": ecgr, "fedavg_s": fedavg},
    )


def augmentation(repeats: int) -> Iterator[Figure]:
    """What flips, quarter turns and colour add to a step."""
    full = AugmentSpec(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
    games = [one_site([], augment=PLAIN), one_site([], augment=full)]
    plain, augmented = interleaved([synchronised(game.play) for game in games], repeats, warm=3)
    yield Figure(
        "augmentation: flips, quarter turns and colour, resnet50 224 px bf16 compiled",
        "a step without it",
        augmented / plain - 1,
        target=0.05,
        detail={"augmented_s": augmented, "plain_s": plain},
    )


def host_synchronisation(repeats: int) -> Iterator[Figure]:
    """Operations of a local loop that make the host wait: CUDA's own check raises at the first."""
    game = one_site(["fedprox", "ecgr"], steps=5)
    game.play()
    site: Site = next(iter(game.sites.values()))
    weights, buffers = game.federation.state.weights, game.federation.state.buffers
    local = site.begin(TrainRequest(1, weights, buffers))
    torch.cuda.synchronize()
    found = 0
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_steps(local, site.shared, site.training, site.batches, site.store.splits["train"])
    except RuntimeError as error:
        print(f"          the host waits: {str(error).splitlines()[0]}")
        found = 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    yield Figure("host synchronisations inside the local loop", "a loop of 5 steps", float(found), target=0.0)


def long_run(repeats: int) -> Iterator[Figure]:
    """50 rounds of 5 sites of 4,000 patches, resnet18: seconds."""
    bench = workbench("resnet18", ["ecgr"], "cuda", **SETTINGS)
    stores = [store(f"site-{k}", 4000, SIZE, seed=k) for k in range(5)]
    game = Rounds(bench, stores, work(-(-3990 // 128), batch_size=128, augment=AugmentSpec()))
    began = time.perf_counter()
    for _ in range(50):
        game.play()
    torch.cuda.synchronize()
    yield Figure(
        "50 rounds x 5 sites x 4,000 patches, resnet18 224 px, compilation included, minutes",
        "one minute",
        (time.perf_counter() - began) / 60,
        target=2.0,
    )
