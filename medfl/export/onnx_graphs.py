"""What an ONNX file holds: a network between what a program feeds it and calibrated probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medfl.export.exported_model import ExportedModel, example_patches
from medfl.model.bag_network import Bags
from medfl.pipeline.evaluate_model import scores
from medfl.pipeline.slide_scores import score_bag

PROBABILITIES, ATTENTION = "probabilities", "attention"
Arrays = tuple[NDArray[Any], ...]


class OnnxGraph(nn.Module):
    """A network with calibration and softmax behind it.

    Attributes:
        input: name of what goes in; its first axis, `axis`, is of any length.
        outputs: names of what comes out.
    """

    scale: Tensor
    bias: Tensor
    input: ClassVar[str]
    axis: ClassVar[str]

    def __init__(self, source: ExportedModel) -> None:
        super().__init__()
        self.source = source
        self.net = source.net
        self.calibration = source.calibration
        self.outputs: tuple[str, ...] = (PROBABILITIES,)
        self.register_buffer("scale", torch.tensor(self.calibration.scale))
        self.register_buffer("bias", torch.tensor(self.calibration.bias))

    def probabilities(self, logits: Tensor) -> Tensor:
        """f32[N, C] of logits f32[N, C]."""
        logits = logits / self.calibration.temperature
        return torch.softmax(logits * self.scale + self.bias if self.calibration.scale else logits, dim=1)

    def example(self) -> Tensor:
        """An input to trace the network by."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """`input`, `output` and what else a program that feeds the graph must know."""
        raise NotImplementedError

    def answers(self) -> Iterator[tuple[NDArray[Any], Arrays]]:
        """Some inputs, and what medfl says of each in the order of `outputs`."""
        raise NotImplementedError

    def _inside(self) -> dict[str, Any]:
        return {"temperature": self.calibration.temperature, "calibration": self.calibration.vector}


class PatchGraph(OnnxGraph):
    """Grey levels u8[N, S, S, 3] in, normalised inside; probabilities f32[N, C] out."""

    mean: Tensor
    std: Tensor
    input, axis = "patches", "batch"

    def __init__(self, source: ExportedModel) -> None:
        super().__init__(source)
        self.register_buffer("mean", torch.tensor(source.facts["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(source.facts["std"]).view(1, 3, 1, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """u8[N, S, S, 3] -> f32[N, C]."""
        x = (patches.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        return self.probabilities(self.net(x))

    def example(self) -> Tensor:
        """Two patches: a batch of one would be taken for a constant."""
        return torch.zeros(2, self.source.size, self.source.size, 3, dtype=torch.uint8)

    def facts(self) -> dict[str, Any]:
        """See `OnnxGraph.facts`."""
        own, size = self.source.facts, self.source.size
        return {
            "input": {
                "name": self.input,
                "dtype": "uint8",
                "shape": [self.axis, size, size, 3],
                "meaning": "RGB grey levels 0 to 255; other sizes are first resized by area and rounded half up",
            },
            "output": {
                "name": PROBABILITIES,
                "dtype": "float32",
                "shape": [self.axis, len(self.source.classes)],
                "meaning": "class probabilities in the order of `classes`",
            },
            "inside": {"mean": own["mean"], "std": own["std"], **self._inside()},
        }

    def answers(self) -> Iterator[tuple[NDArray[Any], Arrays]]:
        """Generated tissue, three patches and one."""
        patches = example_patches(self.source.size).numpy()
        ours = scores(self.source.model, patches, device="cpu")
        for count in (len(patches), 1):
            yield patches[:count], (ours[:count],)


class BagGraph(OnnxGraph):
    """The features f32[n, F] of one slide in, as many tiles as it has; probabilities f32[1, C] out, and of `abmil` the
    attention f32[n] to each tile."""

    input, axis = "features", "tiles"

    def __init__(self, source: ExportedModel) -> None:
        super().__init__(source)
        if source.facts["backbone"] == "mil_abmil":
            self.outputs = (PROBABILITIES, ATTENTION)

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """f32[n, F] -> f32[1, C], or with f32[n]."""
        bag = Bags(features, (features.shape[0],))
        said = self.probabilities(self.net(bag))
        return (said, self.net.attention(bag)[0]) if ATTENTION in self.outputs else said  # type: ignore[operator]

    def example(self) -> Tensor:
        """A slide of five tiles."""
        return torch.zeros(5, self._dim)

    @property
    def _dim(self) -> int:
        return int(self.source.facts["args"]["dim"])

    def facts(self) -> dict[str, Any]:
        """See `OnnxGraph.facts`; `origin` and `encoder` say what gives the features."""
        own = self.source.facts
        shapes = {PROBABILITIES: [1, len(self.source.classes)], ATTENTION: [self.axis]}
        meanings = {
            PROBABILITIES: "class probabilities of the slide in the order of `classes`",
            ATTENTION: "how much each tile counts; sums to 1",
        }
        outputs = [
            {"name": name, "dtype": "float32", "shape": shapes[name], "meaning": meanings[name]}
            for name in self.outputs
        ]
        return {
            "input": {
                "name": self.input,
                "dtype": "float32",
                "shape": [self.axis, self._dim],
                "meaning": "feature vectors of the tiles of one slide, from the encoder that `origin` names",
            },
            "output": outputs[0],
            "further_outputs": outputs[1:],
            "inside": self._inside(),
            "origin": own.get("origin"),
            "encoder": own.get("encoder"),
        }

    def answers(self) -> Iterator[tuple[NDArray[Any], Arrays]]:
        """Slides of drawn numbers, of 300 tiles and of one."""
        bench = self.source.model.ready("cpu")
        for tiles in (300, 1):
            features = np.random.default_rng(tiles).standard_normal((tiles, self._dim)).astype(np.float32)
            said, attention = score_bag(bench, self.source.facts, features)
            yield features, (said[None], attention)[: len(self.outputs)]


def graph_of(source: ExportedModel) -> OnnxGraph:
    """The graph of a model, in evaluation mode."""
    kind = BagGraph if source.model.reads_bags else PatchGraph
    return kind(source).eval()
