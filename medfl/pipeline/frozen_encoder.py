"""The frozen network that gives the feature vector of each tile of a slide: `model.encoder`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from medfl import config
from medfl.data.batches import at_once
from medfl.data.optics import F32
from medfl.data.patch_store import U8
from medfl.errors import MedflError
from medfl.methods.core.chain import MethodChain
from medfl.model.flat_model import FlatModel
from medfl.model.memory_limits import explained
from medfl.pipeline.build_site import resolve_device, resolve_precision
from medfl.pipeline.model_spec import encoder_spec, pinned_encoder
from medfl.seeds import seed_for
from medfl.site.shared_model import SharedModel

BATCH = 128  # tiles in a forward pass, at most
DIGITS = 8


class FrozenEncoder:
    """A network that never trains, and the vectors that it gives.

    Args:
        section: what the pipeline, the command line or a model.json says of it.
        tracking: where MLflow is, for weights of a registered model.
        device, precision: as `training` states them.

    Raises:
        MedflError: weights that are not there, damaged or another network's; a device that is not there; a network
            without a classifier at its end.
    """

    def __init__(
        self,
        section: config.TileEncoder,
        tracking: config.Tracking | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        tracking = tracking or config.Tracking()
        self.section = pinned_encoder(section, tracking)
        place = resolve_device(device)
        model = FlatModel(encoder_spec(self.section, tracking), place, seed=seed_for("encoder"))
        self._shared = SharedModel(model, MethodChain(), precision=resolve_precision(precision, place))
        self._shared.net.eval()

    @cached_property
    def name(self) -> str:
        """The architecture and a digest of all that shapes its vectors: two encoders of one name are one."""
        model = self._shared.model
        shaping = [model.frozen_digest(), list(model.mean), list(model.std), model.spec.pooling, dict(model.spec.args)]
        digest = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()
        return f"{model.spec.backbone}-{digest[:DIGITS]}"

    @property
    def dim(self) -> int:
        """F."""
        classifier: Any = self._shared.model.net.get_classifier()  # type: ignore[operator]
        return int(classifier.in_features)

    @property
    def settings(self) -> dict[str, Any]:
        """What shapes the vectors, as plain values."""
        return {"encoder": self.name, "precision": self._shared.precision}

    @property
    def facts(self) -> dict[str, Any]:
        """What model.json says of it: its name, and how to build it again."""
        return {"name": self.name, **self.section.model_dump(mode="json", exclude_none=True)}

    def __call__(self, tiles: U8) -> F32:
        """The vectors f32[n, F] of tiles u8[n, S, S, 3]. Raises OutOfMemory, and MedflError for a size that the network
        does not take."""
        model = self._shared.model
        mean, std = (torch.tensor(values, device=model.device).view(3, 1, 1) for values in (model.mean, model.std))
        batch = at_once(BATCH, tiles.shape[1], model.device)
        parts = []
        with torch.inference_mode(), self._shared.autocast():
            for begin in range(0, len(tiles), batch):
                images = (
                    torch.from_numpy(tiles[begin : begin + batch]).to(model.device).permute(0, 3, 1, 2).float() / 255
                )
                with explained(f"{len(images)} tiles of {images.shape[-1]} px", model.device, "lower `data.size`"):
                    try:
                        parts.append(model.features((images - mean) / std).float().cpu().numpy())
                    except (RuntimeError, AssertionError, ValueError) as error:
                        if isinstance(error, torch.OutOfMemoryError):
                            raise
                        reason = " ".join(str(error).split())[:200]
                        raise MedflError(
                            f"`model.encoder`: {model.spec.backbone} does not take tiles of {images.shape[-1]} px "
                            f"({reason}); state another `data.size`, or `args: {{dynamic_img_size: true}}` of a vision "
                            f"transformer"
                        ) from None
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def encoder_of(facts: Mapping[str, Any], where: str) -> FrozenEncoder:
    """The encoder that a model.json names.

    Raises:
        MedflError: its weights are not here, or are others.
    """
    section = dict(facts["encoder"])
    name = section.pop("name")
    encoder = FrozenEncoder(config.TileEncoder.model_validate(section))
    if encoder.name != name:
        raise MedflError(
            f"{where}: the encoder of this model is {name}, and `{section['weights']}` gives {encoder.name} here; "
            f"bring its weights to where the model.json says, or install the medfl and timm that it names"
        )
    return encoder
