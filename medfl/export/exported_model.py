"""What is exported: the global model, its facts without local paths, and its card."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from medfl.errors import MedflError
from medfl.metrics.logit_calibration import Calibration
from medfl.pipeline.evaluate_model import TrainedModel
from medfl.runs.records import finished_run
from medfl.runs.versions import installed_version
from medfl.tracking.log_model import portable
from medfl.tracking.model_card import model_card


@dataclass(frozen=True)
class ExportedModel:
    """The global model of a finished run.

    Attributes:
        model: where it lies, and its run where that is on this machine.
        facts: model.json without local paths.
        summary: summary.json, empty where the run is elsewhere.
        card: the model card in Markdown, empty where there is none.
    """

    model: TrainedModel
    facts: dict[str, Any]
    summary: dict[str, Any]
    card: str

    @classmethod
    def of(cls, model: TrainedModel) -> ExportedModel:
        """Gather what goes along with a model.

        Raises:
            MedflError: the backbone is a local folder, patches are normalised by their laboratory's stain, or a file
                of the run is damaged.
        """
        if model.stain_reference:
            raise MedflError(
                f"{model.directory}: patches are normalised by the stain of their laboratory (`data.normalise`), which "
                f"neither an ONNX graph nor a bundle measures, so it would see others than the model was trained on; "
                f"serve it from MLflow, or use `medfl predict`"
            )
        facts = portable({**model.facts, "render": model.render}, model.directory / "model.json")
        if model.run is None:
            return cls(model, facts, {}, model.card.read_text(encoding="utf-8") if model.card else "")
        run = finished_run(model.run.path)
        summary = dict(run.summary or {})
        return cls(model, facts, summary, model_card(summary, facts, run.pipeline, run.data))

    @cached_property
    def net(self) -> nn.Module:
        """The network with the trained weights: float32, on the CPU, in evaluation mode.

        Raises:
            MedflError: weights that do not fit the architecture.
        """
        return self.model.ready("cpu").net.float().eval().requires_grad_(False)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the outputs."""
        return list(self.facts["classes"])

    @property
    def size(self) -> int:
        """Pixels a side of a patch."""
        return int(self.facts["size"])

    @property
    def calibration(self) -> Calibration:
        """What logits go through before softmax; nothing where the run was not calibrated."""
        return self.model.calibration

    @property
    def calibration_words(self) -> str:
        """The same in words, after "at" or "by"."""
        own = self.calibration
        if not own.scale:
            return f"temperature {own.temperature:g}"
        pairs = zip(self.classes, own.scale, own.bias, strict=True)
        return "vector scaling (" + ", ".join(f"{name} x {s:.4g} {b:+.4g}" for name, s, b in pairs) + ")"

    @property
    def shaped(self) -> bool:
        """Whether `timm.create_model` alone does not build the network: `medfl.model.timm_network` does."""
        return bool(self.facts.get("pooling") or self.facts.get("hidden") or "mlp_layer" in self.facts["args"])

    @property
    def began_from(self) -> str:
        """A sentence about the weights that training began with; empty where it began at random or nothing is known."""
        start = self.facts.get("start")
        if start is None and self.model.run:  # a model of version 0.1
            weights = (finished_run(self.model.run.path).pipeline.get("model") or {}).get("weights")
            start = (
                {"origin": {"pretrained": "timm's published weights"}.get(weights, "a checkpoint file")}
                if weights
                else None
            )
        if not start or not start.get("origin"):
            return ""
        digest = f" (sha256 {start['sha256']})" if start.get("sha256") else ""
        licence = start.get("licence") or "not stated"
        return f"Training began from {start['origin']}{digest}, whose licence applies as well: {licence}."

    @property
    def render(self) -> list[Any]:
        """The transforms that patches go through first: the run's `data.render`."""
        return list(self.facts["render"])

    def kept_at_sites(self) -> str:
        """A sentence about models that stay at the sites; empty where the global model is all there is."""
        parts = self.facts.get("kept_at_sites") or []
        return f"Each training site keeps {' and '.join(parts)}; what is exported is the global model." if parts else ""


def version(package: str) -> str:
    """The installed version without a build label (`+cpu`), which no other machine may have."""
    return installed_version(package).partition("+")[0]


def example_patches(size: int, count: int = 3) -> torch.Tensor:
    """Patches of generated tissue u8[count, size, size, 3], to compare an exported model on."""
    from medfl.data.synthetic.tissue import TISSUE_CLASSES, draw_copies

    patches = [torch.from_numpy(draw_copies(TISSUE_CLASSES[n], n, 0, size, 1).copy()) for n in range(count)]
    return torch.cat(patches)
