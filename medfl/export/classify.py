"""The workflow of an exported MONAI Bundle: images of a folder in, class probabilities as CSV out.

The bundle carries this file as `scripts/classify.py`, and beside it the files that find images and write
cells, from which it then imports. It imports nothing else of medfl.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import decollate_batch

from medfl.data.images import images_below
from medfl.data.table_cells import NeutralWriter


def datalist(directory: str) -> list[dict[str, str]]:
    """`image` (path) and `file` (relative name) of every image below a folder, sorted by relative name.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
    """
    root = Path(directory)
    paths = images_below(root) if root.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"{root} is no folder with images; name one with --dataset_dir")
    return [{"image": str(path), "file": path.relative_to(root).as_posix()} for path in paths]


def round_half_up(image: torch.Tensor) -> torch.Tensor:
    """Grey levels f32 to whole ones in 0..255, as they were when the model was trained."""
    return (image + 0.5).floor().clamp(0, 255)


class Classifier:
    """The bundle's evaluator.

    Args:
        dataloader: batches with `image` f32[B, 3, S, S], normalised, and `file` [B].
        network: the network without its weights.
        weights: a state dict written by torch.save, read as weights only.
        inferer: MONAI inferer.
        postprocessing: item {"pred": logits f32[C]} to {"pred": probabilities f32[C]}.
        classes: C names, in the order of the outputs.
        device: where the network runs.
        output: CSV file to write: `file`, and `p_<class>` for every class.
    """

    def __init__(
        self,
        dataloader: Iterable[dict[str, Any]],
        network: torch.nn.Module,
        weights: str,
        inferer: Callable[..., torch.Tensor],
        postprocessing: Callable[[dict[str, Any]], dict[str, Any]],
        classes: Sequence[str],
        device: torch.device,
        output: str,
    ) -> None:
        self.dataloader = dataloader
        self.network = network
        self.weights = weights
        self.inferer = inferer
        self.postprocessing = postprocessing
        self.classes = list(classes)
        self.device = device
        self.output = Path(output)

    @torch.inference_mode()
    def run(self) -> None:
        """Classify every image and write the CSV file, replacing an older one."""
        network = self.network
        network.load_state_dict(torch.load(self.weights, map_location="cpu", weights_only=True))
        network = network.float().to(self.device).eval()
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with self.output.open("w", newline="", encoding="utf-8") as stream:
            writer = NeutralWriter(stream, lineterminator="\n")
            writer.writerow(["file", *(f"p_{name}" for name in self.classes)])
            for batch in self.dataloader:
                logits = self.inferer(batch["image"].to(self.device), network)
                for name, item in zip(batch["file"], decollate_batch({"pred": logits.float().cpu()}), strict=True):
                    writer.writerow([name, *(f"{p:.6f}" for p in self.postprocessing(item)["pred"].tolist())])
        print(f"Probabilities: {self.output}")
