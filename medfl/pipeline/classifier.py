"""A trained model as a function in memory: patches in, calibrated probabilities out."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.config.program_parts import PROGRAM, is_program
from medfl.data.patch_store import U8
from medfl.data.pixels import patch_list, to_patch
from medfl.data.rgb import Unreadable
from medfl.errors import MedflError
from medfl.pipeline.evaluate_model import TrainedModel, find_model, scores


class PatchClassifier:
    """A trained model, loaded once: what `medfl.load_model` returns.

    Attributes:
        facts: model.json: backbone, classes, size, normalisation, calibration, thresholds, where it came from.
    """

    def __init__(self, model: TrainedModel, device: str = "auto") -> None:
        self.trained = model
        self.facts: dict[str, Any] = model.facts
        self._bench = model.ready(device)

    @property
    def classes(self) -> list[str]:
        """Names of the C classes, in the order of the probabilities."""
        return list(self.facts["classes"])

    @property
    def size(self) -> int:
        """Pixels along each edge of the patches that it was trained on."""
        return int(self.facts["size"])

    @property
    def thresholds(self) -> dict[str, float]:
        """Target (a class, or `malignant`) -> the probability from which validation data called it positive."""
        return dict(self.facts.get("thresholds") or {})

    @property
    def network(self) -> Any:
        """The `torch.nn.Module` in evaluation mode; images go in normalised, logits come out, not calibrated."""
        return self._bench.net.eval()

    def predict_proba(self, images: Any, batch_size: int = 64) -> NDArray[np.float32]:
        """Calibrated probabilities of patches.

        Resizing and normalisation are those of training. Patches must be of the microns per pixel that the model was
        trained at (`facts["mpp"]`), which an array does not say.

        Args:
            images: u8[N, H, W, 3] of NumPy or PyTorch (also [N, 3, H, W], grey, or floating point in [0, 1]), or a list
                of arrays, tensors or Pillow images of any sizes. One image is N = 1.
            batch_size: patches that go through the network at a time.

        Returns:
            f32[N, C], rows sum to 1; columns as `classes`.

        Raises:
            MedflError: something that is no image, by its number.
        """
        patches = self._patches(images)
        if not len(patches):
            return np.empty((0, len(self.classes)), dtype=np.float32)
        return scores(self.trained, patches, batch_size, loaded=self._bench).astype(np.float32)

    def predict(self, images: Any, batch_size: int = 64) -> list[str]:
        """The likeliest class of each patch, by name. Takes and raises what `predict_proba` does."""
        return [self.classes[row] for row in self.predict_proba(images, batch_size).argmax(axis=1)]

    def _patches(self, images: Any) -> U8:
        """Patches u8[N, S, S, 3]."""
        from medfl.data.decode import decode

        try:
            patches = [_numbered(image, row) for row, image in enumerate(patch_list(images))]
        except Unreadable as error:
            raise MedflError(f"`images`: {error}") from None
        if any(patch.shape[:2] != (self.size, self.size) for patch in patches):
            readers = [functools.partial(to_patch, patch) for patch in patches]
            results = list(decode(readers, self.size))
            failures = [f"image {row} is {r}" for row, r in enumerate(results) if isinstance(r, Unreadable)]
            if failures:
                raise MedflError(f"`images`: {failures[0]}")
            patches = [result.image for result in results if not isinstance(result, Unreadable)]
        return np.stack(patches) if patches else np.empty((0, self.size, self.size, 3), dtype=np.uint8)


def _numbered(image: Any, row: int) -> U8:
    try:
        return to_patch(image)
    except Unreadable as error:
        raise Unreadable(f"image {row} is {error}") from None


def with_network(model: TrainedModel, network: Any) -> TrainedModel:
    """A trained model with the network that a program hands over. Raises MedflError where the model needs one and has
    none, or has timm's."""
    own = is_program(model.facts["backbone"])
    if own and network is None:
        raise MedflError(
            f"{model.directory} is a model of the network {model.facts['backbone'].removeprefix(PROGRAM + ':')}, which "
            f"a program handed over and no file holds; hand it over again, `network=...`"
        )
    if network is not None and not own:
        raise MedflError(f"{model.directory} is a model of timm's {model.facts['backbone']}; leave `network` out")
    return dataclasses.replace(model, network=network) if own else model


def load_model(ref: Path | str, *, network: Any = None, device: str = "auto") -> PatchClassifier:
    """Load a trained model.

    Args:
        ref: a run folder, a folder with `model.safetensors` and `model.json`, an MLflow run id, or
            `models:/name@alias`. MLflow is looked for where MLFLOW_TRACKING_URI says, else in `mlflow.db` of the
            working directory.
        network: the `nn.Module` that the model was trained with, where a program handed one to `medfl.run`; its values
            are replaced by those of the model, in a copy.
        device: "auto", "cpu", "cuda", ...

    Raises:
        MedflError: no such model; its files are not what the run wrote; it does not fit the installed timm or the
            network.
    """
    return PatchClassifier(with_network(find_model(str(ref)), network), device)
