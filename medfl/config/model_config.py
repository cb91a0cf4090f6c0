"""The model of a pipeline: its network, the weights it starts from, what of it trains."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from medfl.config.fields import ConfigSection, Count, Positive, Rgb

Pooling = Literal["cls", "avg", "cls+avg", "stages"]


class InputNormalisation(ConfigSection):
    """How images are given to the backbone: mean and deviation of values in [0, 1], red, green, blue; and how the
    weights' authors resized, which is only noted."""

    mean: Rgb
    std: tuple[Positive, Positive, Positive]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None


class LoraAdapters(ConfigSection):
    """Low-rank adapters of linear layers: the product counts alpha / rank times, and one of its factors trains."""

    rank: Count = 8
    alpha: Positive = 16.0
    targets: list[str] = Field(["qkv", "proj"], min_length=1)


class TrainedPart(ConfigSection):
    """What trains along with the classifier: the last blocks, as timm groups layers, or adapters."""

    blocks: Count | None = None
    lora: LoraAdapters | None = None

    @model_validator(mode="after")
    def _one(self) -> TrainedPart:
        if (self.blocks is None) == (self.lora is None):
            raise ValueError("state one of `blocks` and `lora`; `lora: {}` takes its defaults")
        return self


class TileEncoder(ConfigSection):
    """A frozen network that gives the feature vector of each tile of a slide; its keys mean what they do in `model`."""

    backbone: str | None = None
    weights: str
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    input: Literal["timm"] | InputNormalisation | None = None
    licence: str | None = None
    pooling: Pooling | None = None
    args: dict[str, Any] = {}

    @model_validator(mode="after")
    def _says_which(self) -> TileEncoder:
        _check_backbone(self.backbone, self.weights)
        return self


def _check_backbone(backbone: str | None, weights: str) -> None:
    """Raise ValueError where nothing says what network it is."""
    if backbone is None and weights in ("random", "pretrained"):
        raise ValueError(
            "the key `backbone` is missing; only weights that are a run, package, local-dir: or hf-hub: say it "
            "themselves"
        )


class ModelConfig(ConfigSection):
    """A timm backbone by name, and the weights it starts from; `args` goes to `timm.create_model` untouched. With `mil`
    a network over bags of feature vectors in its place, of `dim` numbers or of those that `encoder` gives. With
    `classifier: zero` the layer that gives the logits starts at zero, unless the weights bring one that fits."""

    backbone: str | None = None
    mil: Literal["abmil", "mean", "max"] | None = None
    dim: Count | None = None
    encoder: TileEncoder | None = None
    weights: str = "random"
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    input: Literal["timm"] | InputNormalisation | None = None
    licence: str | None = None
    train: Literal["all", "head"] | TrainedPart = "all"
    pooling: Pooling | None = None
    head: Literal["linear", "mlp"] = "linear"
    hidden: Count | None = None
    classifier: Literal["zero"] | None = None
    args: dict[str, Any] = {}

    @model_validator(mode="after")
    def _says_which(self) -> ModelConfig:
        if self.mil:
            return self._of_bags()
        if self.dim:
            raise ValueError("`dim` is the length of a feature vector, which `mil` reads; state that, or remove `dim`")
        if self.encoder:
            raise ValueError("`encoder` gives feature vectors of tiles, which `mil` reads; state that, or remove it")
        _check_backbone(self.backbone, self.weights)
        if self.hidden and self.head == "linear":
            raise ValueError("`hidden` is the width of `head: mlp`; state that, or remove `hidden`")
        return self

    def _of_bags(self) -> ModelConfig:
        """Raise ValueError for a key that says something of images."""
        if self.dim is None and self.encoder is None:
            raise ValueError(
                "`dim` is missing: how many numbers the encoder gives for a tile, 1024 for example; or name the "
                "`encoder`, which is asked"
            )
        strange = {
            "backbone": self.backbone,
            "classifier": self.classifier,
            "input": self.input,
            "pooling": self.pooling,
            "train": self.train if self.train != "all" else None,
            "head": self.head if self.head != "linear" else None,
            "weights": self.weights if self.weights in ("pretrained", "package") else None,
        }
        for key, value in strange.items():
            if value is not None:
                remedy = "remove it"
                if key in TileEncoder.model_fields:
                    remedy = f"write it under `encoder`, which gives them of slides, or {remedy}"
                raise ValueError(f"`{key}` is for networks that see images, and `mil` reads feature vectors; {remedy}")
        if beside := sorted({"dim", "hidden"} & set(self.args)):
            raise ValueError(f"`args.{beside[0]}` is written `{beside[0]}`, beside `mil`")
        return self
