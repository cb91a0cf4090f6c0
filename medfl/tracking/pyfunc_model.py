"""The served model: uint8 patches in, class probabilities with names out.

This file is itself the model's code in MLflow ("models from code"). It imports nothing of medfl, so that a registered
model loads wherever its own requirements are installed; no pickle is written or read. Preprocessing is that of
training and evaluation: area resize, rounding to grey levels, the run's `data.render` and `data.normalise` (which
travel along as the packages `served_rendering` and `served_stain`, where a run has them), the backbone's
normalisation, softmax.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

BATCH = 64
FILES = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}  # timm would read a file of any kind


class PathologyClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A timm backbone with its preprocessing. Artifacts: `weights` (safetensors), `config` (model.json), and `network`,
    the file that builds a network from what that says."""

    def load_context(self, context: Any) -> None:
        """Build the network and load its weights strictly; only integer buffers may be absent."""
        config = json.loads(Path(context.artifacts["config"]).read_text(encoding="utf-8"))
        self.classes: list[str] = config["classes"]
        self.size: int = config["size"]
        self.temperature: float = config.get("temperature") or 1.0
        vector = config.get("calibration") or {}  # with vector scaling a factor and a constant for every class
        self.scale = torch.tensor(vector.get("scale") or [1.0] * len(self.classes), dtype=torch.float64)
        self.bias = torch.tensor(vector.get("bias") or [0.0] * len(self.classes), dtype=torch.float64)
        self.mean = torch.tensor(config["mean"]).view(1, 3, 1, 1)
        self.std = torch.tensor(config["std"]).view(1, 3, 1, 1)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if FILES & set(config.get("args") or {}) or ":" in config["backbone"]:
            raise ValueError("the model's facts name a file or an address, which are not read")
        build = runpy.run_path(context.artifacts["network"])["build_network"]
        shape = (config.get("pooling"), config.get("hidden"))
        net = build(config["backbone"], len(self.classes), config.get("args") or {}, *shape)
        missing, unknown = net.load_state_dict(load_file(context.artifacts["weights"]), strict=False)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if missing or unknown:
            raise ValueError(f"the weights do not fit {config['backbone']}: {len(missing)} missing, {unknown} unknown")
        self.net = net.float().eval().to(self.device)
        self.render: Callable[[Any], Any] | None = None
        if config.get("render"):
            from served_rendering.transforms import serving  # type: ignore[import-not-found]

            self.render = serving(config["render"])
        self.stain: Callable[[Any], Any] | None = None
        if config.get("normalise"):
            from served_stain.normalise import serving_stain  # type: ignore[import-not-found]

            self.stain = serving_stain(config["normalise"]["reference"])

    def predict(
        self,
        context: Any,
        model_input: np.ndarray,  # the bare type: MLflow knows no other
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Classify patches.

        Args:
            context: unused.
            model_input: uint8 RGB patches [N, H, W, 3], or one patch [H, W, 3]; of one laboratory, where the model
                normalises stain.
            params: unused.

        Returns:
            Probabilities [N, C], one column per class name.

        Raises:
            ValueError: the input is not uint8 or has another shape, or its stain cannot be normalised.
        """
        patches = np.asarray(model_input)
        if patches.dtype != np.uint8:
            raise ValueError(f"patches must be uint8 grey levels from 0 to 255, not {patches.dtype}")
        if patches.ndim == 3:
            patches = patches[None]
        if patches.ndim != 4 or patches.shape[-1] != 3 or 0 in patches.shape[1:]:
            raise ValueError(f"patches must have the shape [N, H, W, 3], not {list(patches.shape)}")
        batches = [self._prepared(patches[i : i + BATCH]) for i in range(0, len(patches), BATCH)]
        if self.stain is not None and batches:
            seen = self.stain(np.concatenate(batches))
            batches = [seen[i : i + BATCH] for i in range(0, len(seen), BATCH)]
        rows = [self._probabilities(batch) for batch in batches]
        table = np.concatenate(rows) if rows else np.empty((0, len(self.classes)))
        return pd.DataFrame(table, columns=self.classes)

    def _prepared(self, patches: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """uint8 [B, H, W, 3] -> uint8 [B, S, S, 3], rendered."""
        if patches.shape[1:3] != (self.size, self.size):
            x = torch.from_numpy(np.ascontiguousarray(patches)).to(self.device).permute(0, 3, 1, 2).float()
            x = torch.nn.functional.interpolate(x, (self.size, self.size), mode="area")
            patches = (x + 0.5).floor().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
        return patches if self.render is None else np.asarray(self.render(patches))

    @torch.inference_mode()
    def _probabilities(self, patches: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """uint8 [B, S, S, 3] -> f64 [B, C]."""
        x = torch.from_numpy(np.ascontiguousarray(patches)).to(self.device).permute(0, 3, 1, 2).float()
        x = (x / 255 - self.mean.to(self.device)) / self.std.to(self.device)
        logits = self.net(x).double().cpu() / self.temperature * self.scale + self.bias
        return np.asarray(torch.softmax(logits, dim=1).numpy())


mlflow.models.set_model(PathologyClassifier())
