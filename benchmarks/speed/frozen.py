"""What a frozen network costs: its features computed once, and rounds of heads on features that are there. CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import timm
import torch

from benchmarks.speed.figure import Figure, interleaved
from benchmarks.speed.workload import METHOD, PLAIN, Rounds, store, work, workbench
from medfl.config.pipeline_config import Evaluation
from medfl.data.batches import Batches, at_once
from medfl.data.patch_store import PatchStore
from medfl.site.evaluator import Evaluator
from medfl.site.feature_batches import FeatureBatches

BACKBONE, FEATURES = "tf_efficientnet_lite0", 1280
PATCHES, SIDE = 320, 128
AT_MOST = Evaluation().batch_size
SITES, OF_EACH, STEPS = 6, 1000, 10
ROUND_S = 0.05
HEADS = ("fedprox", "scaffold", "feddyn", "fednova", "fedlc", "ecgr", "adaptive_ecgr")


def bare_loop(patches: PatchStore, batch_size: int) -> Callable[[], None]:
    """Features of the same patches by timm alone."""
    net = timm.create_model(BACKBONE, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(net)
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    images = torch.from_numpy(np.asarray(patches.images))

    def loop() -> None:
        with torch.inference_mode():
            for begin in range(0, len(images), batch_size):
                # Contiguous, as medfl has them without channels_last.
                part = images[begin : begin + batch_size].permute(0, 3, 1, 2).contiguous()
                net((part.float() / 255 - mean) / std)

    return loop


def extraction(repeats: int) -> Iterator[Figure]:
    """Patches a second through the frozen network over those of a bare loop in batches of the same size."""
    patches, bench = store("site", PATCHES, SIDE), workbench(BACKBONE, [], train="head")
    images = Batches(patches, torch.device("cpu"), bench.model.mean, bench.model.std, PLAIN)

    def extract() -> None:
        _ = FeatureBatches(images, bench, views=1, batch_size=PATCHES).plain

    loop = bare_loop(patches, at_once(PATCHES, SIDE, images.device))
    ours, bare = interleaved([extract, loop], repeats=max(7, repeats))
    yield Figure(
        f"features of {PATCHES} patches, patches/s, {BACKBONE} {SIDE} px",
        "bare timm loop over the same patches",
        bare / ours,
        target=0.95,
        at_least=True,
        detail={"features_s": ours, "bare_s": bare},
    )


def measuring(repeats: int) -> Iterator[Figure]:
    """Patches a second through a network that has trained over those of a bare loop in batches as large as may be."""
    patches, bench = store("site", PATCHES, SIDE), workbench(BACKBONE, [])
    images = Batches(patches, torch.device("cpu"), bench.model.mean, bench.model.std, PLAIN)
    evaluator, rows = Evaluator(bench, patches, images, AT_MOST), np.arange(PATCHES)
    weights, buffers = bench.model.weights(), bench.model.buffers()
    ours, bare = interleaved(
        [lambda: evaluator.logits(weights, buffers, rows), bare_loop(patches, AT_MOST)], repeats=max(7, repeats)
    )
    yield Figure(
        f"measuring {PATCHES} patches, patches/s, {BACKBONE} {SIDE} px",
        f"bare timm loop over the same patches in batches of {AT_MOST}",
        bare / ours,
        detail={"medfl_s": ours, "bare_s": bare},
    )


def heads(method: METHOD) -> Rounds:
    """Six sites with features of noise, in the place of those that they would have computed."""
    stores = [store(f"site-{k}", OF_EACH, 32, seed=k) for k in range(SITES)]
    game = Rounds(workbench(BACKBONE, method, train="head"), stores, work(STEPS, views=1))
    for seed, site in enumerate(game.sites.values()):
        generator = torch.Generator().manual_seed(seed)
        vars(site.batches)["plain"] = torch.randn(OF_EACH, FEATURES, generator=generator)
    return game


def rounds_on_features(repeats: int) -> Iterator[Figure]:
    """A round of heads on cached features: of FedAvg over 50 ms, and of the others over FedAvg's."""
    games = [heads([]), *(heads([name]) for name in HEADS)]
    fedavg, *found = interleaved([game.play for game in games], repeats=5 * max(7, repeats), warm=3)
    told = f"{SITES} sites x {OF_EACH:,} x {FEATURES:,}, {STEPS} steps"
    yield Figure(
        f"FedAvg round on cached features, {told}", "50 ms", fedavg / ROUND_S, target=1.0, detail={"fedavg_s": fedavg}
    )
    for name, seconds in zip(HEADS, found, strict=True):
        yield Figure(
            f"{name} round on cached features",
            "FedAvg round",
            seconds / fedavg,
            target=1.5,
            detail={f"{name}_s": seconds, "fedavg_s": fedavg},
        )
