"""What a curious reader sees in an update and in predictions, measured. A test instrument: nothing in medfl attacks.

    MEDFL_LC25000=DIR uv run python -m benchmarks.leaks inversion    # patches out of the gradient of one batch
    MEDFL_LC25000=DIR uv run python -m benchmarks.leaks hospital     # the hospital out of features and predictions

Both write a CSV in docs/results/privacy; `python -m benchmarks.privacy` makes the tables of docs/privacy.md from them.

Inversion: the server holds the weights and the update of one SGD step without momentum, hence the gradient, of a
0.1 M network with group normalisation at its first weights, on the data of pipelines/studies/base.yaml. Labels are
known. By analysis, the classifier's gradients give the mean features of a class (Phong et al. 2018,
doi:10.1109/TIFS.2017.2787987); by optimisation, images are sought whose gradient points the same way (Geiping et al.
2020, arXiv:2003.14053: cosine distance, total variation, signed steps of Adam). PSNR and SSIM stand beside those of
the class's mean image, which needs no attack.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from benchmarks.pages import table
from benchmarks.tables import ROOT
from medfl.data.patch_store import PatchStore
from medfl.federation.rounds import Federation
from medfl.methods.differential_privacy import entropy_normal
from medfl.metrics.site_signature import site_signature
from medfl.model.flat_model import FlatModel
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import LocalRunSetup, prepare

FOLDER = ROOT / "docs" / "results" / "privacy"
INVERSION, HOSPITAL = FOLDER / "inversion.csv", FOLDER / "hospital.csv"
BASE, SMALL = (ROOT / "pipelines" / name for name in ("studies/base.yaml", "lc25000_small.yaml"))
FIXED = ("tracking.enabled=false", "training.device=cpu", "training.threads=1")
NETWORK = ("model={backbone: test_efficientnet_gn}", "data.size=64", "training.channels_last=false")
STEPS, RATE, SMOOTH = 200, 0.05, 1e-3
BATCHES = ((1, 0.0), (8, 0.0), (1, 1.0))
"""Patches of a batch, and noise on every value in multiples of the gradient's length, as DP-SGD has it."""
TRIES = 2


def gradient_of(model: FlatModel, images: Tensor, labels: Tensor, keep: bool = False) -> list[Tensor]:
    """The gradients of the mean cross entropy in the parameters; `keep` so that they can be differentiated again."""
    loss = cross_entropy(model.net(images), labels)
    return list(torch.autograd.grad(loss, model.parameters, create_graph=keep))


def class_features(gradients: Sequence[Tensor], label: int) -> Tensor:
    """f32[F]: what the gradients of a linear classifier (weight, bias: the last two) tell of the features behind a
    class. With one patch they are its features."""
    weight, bias = gradients[-2:]
    return weight[label] / bias[label]


def invert(model: FlatModel, wanted: Sequence[Tensor], shape: Sequence[int], labels: Tensor, steps: int) -> Tensor:
    """Images f32[B, 3, S, S], normalised, whose gradient points where `wanted` does."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(*shape, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=RATE)
    low, high = ((value - torch.tensor(model.mean)) / torch.tensor(model.std) for value in (0.0, 1.0))
    target = torch.cat([part.flatten() for part in wanted])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * (1.0 if step < steps // 2 else 0.1)
        found = torch.cat([part.flatten() for part in gradient_of(model, images, labels, keep=True)])
        across, down = images.diff(dim=3).abs().mean(), images.diff(dim=2).abs().mean()
        loss = 1 - cosine_similarity(found, target, dim=0) + SMOOTH * (across + down)
        (gradient,) = torch.autograd.grad(loss, images)
        images.grad = gradient.sign()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(low.view(1, 3, 1, 1), high.view(1, 3, 1, 1))
    return images.detach()


def psnr(one: Tensor, two: Tensor) -> float:
    """Decibels of images in [0, 1]."""
    return float(-10 * torch.log10(torch.mean((one - two) ** 2)))


def ssim(one: Tensor, two: Tensor) -> float:
    """Structural similarity of two images f32[3, S, S] in [0, 1]."""
    from monai.metrics import SSIMMetric

    return float(SSIMMetric(spatial_dims=2)(one[None], two[None]))


def inversion() -> None:
    """Attack batches of a training site, and write what came out."""
    prepared = prepare(load_pipeline(BASE, (*NETWORK, *FIXED)))
    model, site = prepared.shared.model, prepared.sites[sorted(prepared.config.train_sites)[0]]
    store = site.store
    assert isinstance(store, PatchStore)
    model.load(*(prepared.initial_state().weights, prepared.initial_state().buffers))
    model.net.eval()
    mean, std = torch.tensor(model.mean).view(3, 1, 1), torch.tensor(model.std).view(3, 1, 1)
    rows = np.random.default_rng(0).permutation(store.splits["train"])
    others = store.splits["test"]
    lines = []
    for number, (size, noise) in enumerate(batch for batch in BATCHES for _ in range(TRIES)):
        chosen = rows[number * 8 : number * 8 + size]
        true = torch.from_numpy(np.array(store.images[chosen])).permute(0, 3, 1, 2) / 255
        labels = torch.from_numpy(store.labels[chosen])
        seen = gradient_of(model, (true - mean) / std, labels)
        if noise:
            length = float(torch.cat([part.flatten() for part in seen]).norm())
            seen = [part + noise * length * entropy_normal(part.numel()).view_as(part) for part in seen]
        with torch.no_grad():
            features = model.features((true - mean) / std)
        told = cosine_similarity(class_features(seen, int(labels[0])), features[0], dim=0)
        found = invert(model, seen, true.shape, labels, STEPS) * std + mean
        guesses = [mean_image(store, others, int(label)) for label in labels]
        figures = [float(told)]
        for measure in (psnr, ssim):  # of each patch the likest that was found: of a batch nobody knows which is which
            figures.append(float(np.mean([max(measure(image, own) for image in found) for own in true])))
            figures.append(float(np.mean([measure(image, own) for image, own in zip(guesses, true, strict=True)])))
        lines.append([str(size), f"{noise:g}", str(number % TRIES), *(f"{figure:.4f}" for figure in figures)])
        print(*lines[-1], flush=True)
        write(INVERSION, ["batch", "noise", "try", "features_cosine", "psnr", "mean_psnr", "ssim", "mean_ssim"], lines)


def mean_image(store: PatchStore, rows: np.ndarray[tuple[int], np.dtype[np.int64]], label: int) -> Tensor:
    """f32[3, S, S] in [0, 1]: the mean of patches of a class that were not trained on; of all where there are none."""
    own = rows[store.labels[rows] == label]
    chosen = own if len(own) else rows
    images = np.asarray(store.images[chosen]).mean(axis=0)
    return torch.from_numpy(images).permute(2, 0, 1).float() / 255


def hospital() -> None:
    """How well a probe names the hospital of a test patch, and write it."""
    lines = []
    for name, changes in (("no privacy", []), ("patients, epsilon 8", ["training.dp_sgd={clip: 0.5, epsilon: 8}"])):
        pipeline = load_pipeline(SMALL, ["training.rounds=20", "training.evaluate_every=1000", *changes, *FIXED])
        prepared = prepare(pipeline)
        federation: Federation = prepared.federation(prepared.initial_state())
        for _ in range(pipeline.training.rounds):
            federation.run_round()
        for what, values in seen_by_a_probe(prepared, federation).items():
            if what == "features" and changes:
                continue
            lines.append([name, what, *values])
            print(*lines[-1], flush=True)
        write(HOSPITAL, ["model", "seen", "balanced_accuracy", "chance", "sites"], lines)


def seen_by_a_probe(prepared: LocalRunSetup, federation: Federation) -> dict[str, list[str]]:
    """Of the frozen features and of the model's logits: balanced accuracy, chance and the number of sites."""
    parts: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]] = {"features": [], "logits": []}
    labels, groups, numbers = [], [], []
    for number, name in enumerate(sorted(prepared.sites)):
        site = prepared.sites[name]
        rows = site.store.splits["test"]
        (logits,) = site.evaluator.logits_of_each(federation.state.weights, federation.state.buffers, ["test"])
        parts["logits"].append(logits.numpy().astype(np.float32))
        model = federation.state.weights, federation.state.buffers
        parts["features"].append(site.evaluator.features(*model, rows).numpy())
        labels.append(site.store.labels[rows])
        groups.append(site.store.groups[rows])
        numbers.append(np.full(len(rows), number, dtype=np.int64))
    made = {}
    for what, values in parts.items():
        sites = np.concatenate(numbers)
        found = site_signature(np.concatenate(values), sites, np.concatenate(labels), np.concatenate(groups))
        made[what] = [
            "" if figure is None else f"{figure:.4f}" for figure in (found.balanced_accuracy, found.chance)
        ] + [str(len(found.sites))]
    return made


def write(path: Path, head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """A whole CSV, so that what is done is kept."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([head, *lines])


def read(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def inversion_table() -> str:
    """Means over tries."""
    lines, rows = read(INVERSION), []
    for key in dict.fromkeys((line["batch"], line["noise"]) for line in lines):
        own = [line for line in lines if (line["batch"], line["noise"]) == key]
        cells = [
            f"{np.mean([float(line[name]) for line in own]):.{digits}f}"
            for name, digits in (("features_cosine", 3), ("psnr", 1), ("mean_psnr", 1), ("ssim", 3), ("mean_ssim", 3))
        ]
        rows.append([*key, str(len(own)), *cells])
    head = ["patches", "noise", "tries", "features, cosine", "PSNR", "of the class mean", "SSIM", "of the class mean"]
    return table(head, rows)


def hospital_table() -> str:
    """As measured."""
    rows = [list(line.values()) for line in read(HOSPITAL)]
    return table(["model", "the probe sees", "balanced accuracy", "chance", "sites"], rows)


if __name__ == "__main__":
    {"inversion": inversion, "hospital": hospital}[sys.argv[1]]()
