"""The served model over bags: the feature vectors of one slide in, class probabilities with names out.

This file is itself the model's code in MLflow ("models from code"), as `pyfunc_model` is for images: it imports nothing
of medfl, and no pickle is written or read.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file


class ServedSlideModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A network over bags. Artifacts: `weights` (safetensors), `config` (model.json), and `network`, the file that
    builds a network from what that says."""

    def load_context(self, context: Any) -> None:
        """Build the network and load its weights strictly."""
        config = json.loads(Path(context.artifacts["config"]).read_text(encoding="utf-8"))
        self.classes: list[str] = config["classes"]
        self.temperature: float = config.get("temperature") or 1.0
        self.code = runpy.run_path(context.artifacts["network"])
        net = self.code["build_bag_network"](config["backbone"], len(self.classes), config["args"])
        net.load_state_dict(load_file(context.artifacts["weights"]))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.net = net.float().eval().to(self.device)

    @torch.inference_mode()
    def predict(
        self,
        context: Any,
        model_input: np.ndarray,  # the bare type: MLflow knows no other
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Classify one slide.

        Args:
            context: unused.
            model_input: the feature vectors of its tiles, f32[n, F], from the encoder that the model was trained with.
            params: unused.

        Returns:
            Probabilities [1, C], one column per class name.

        Raises:
            ValueError: the input has another shape, no tile, or numbers that are not finite.
        """
        features = np.asarray(model_input, dtype=np.float32)
        if features.ndim != 2 or features.shape[1] != self.net.dim or not len(features):
            raise ValueError(f"features of a slide have the shape [tiles, {self.net.dim}], not {list(features.shape)}")
        if not np.isfinite(features).all():
            raise ValueError("features are not finite (NaN or infinite)")
        bags = self.code["Bags"](torch.from_numpy(features).to(self.device), (len(features),))
        probabilities = torch.softmax(self.net(bags).double() / self.temperature, dim=1)
        return pd.DataFrame(probabilities.cpu().numpy(), columns=self.classes)


mlflow.models.set_model(ServedSlideModel())
