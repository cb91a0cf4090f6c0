"""Encoders that pathology groups start from, as `medfl backbones` lists them. The source of each has the last word."""

from __future__ import annotations

from dataclasses import dataclass

IMAGENET, HALF, H_OPTIMUS = "ImageNet", ".5", ".707 .579 .704"
JOINED = "cls+avg"
GATED_MLP = "write `args: {mlp_layer: SwiGLUPacked, act_layer: silu}`"  # its authors name them in code


@dataclass(frozen=True)
class KnownBackbone:
    """An encoder.

    Attributes:
        name: for people.
        weights: what `model.weights` (and `model.backbone`) are written as.
        dim: values of a patch's features.
        size: pixels a side that it was trained at.
        mean: of the input normalisation, in short.
        licence: of the weights, as published.
        gated: whether its source asks for an agreement first; None where that is not certain.
        commercial: whether the licence allows commercial use; None where that is not certain.
        note: what else to know.
        pooling: what `model.pooling` is to be; "" where the weights' authors leave it to timm.
    """

    name: str
    weights: str
    dim: int
    size: int
    mean: str
    licence: str
    gated: bool | None
    commercial: bool | None
    note: str = ""
    pooling: str = ""


KNOWN_BACKBONES = (
    KnownBackbone("EfficientNet-Lite0", "package", 1280, 224, HALF, "Apache-2.0", False, True, "ImageNet; offline"),
    KnownBackbone(
        "EfficientNet-Lite1", "tf_efficientnet_lite1, pretrained", 1280, 240, HALF, "Apache-2.0", False, True
    ),
    KnownBackbone(
        "EfficientNet-Lite2", "tf_efficientnet_lite2, pretrained", 1280, 260, HALF, "Apache-2.0", False, True
    ),
    KnownBackbone("ResNet-50", "resnet50, pretrained", 2048, 224, IMAGENET, "Apache-2.0", False, True),
    KnownBackbone("UNI", "hf-hub:MahmoodLab/UNI", 1024, 224, IMAGENET, "CC-BY-NC-ND-4.0", True, False),
    KnownBackbone("UNI2-h", "hf-hub:MahmoodLab/UNI2-h", 1536, 224, IMAGENET, "CC-BY-NC-ND-4.0", True, False, GATED_MLP),
    KnownBackbone("H-optimus-0", "hf-hub:bioptimus/H-optimus-0", 1536, 224, H_OPTIMUS, "Apache-2.0", None, True),
    KnownBackbone("H-optimus-1", "hf-hub:bioptimus/H-optimus-1", 1536, 224, H_OPTIMUS, "CC-BY-NC-ND-4.0", True, False),
    KnownBackbone("H0-mini", "hf-hub:bioptimus/H0-mini", 768, 224, "check", "CC-BY-NC-ND-4.0", True, False),
    KnownBackbone(
        "Virchow", "hf-hub:paige-ai/Virchow", 2560, 224, IMAGENET, "Apache-2.0", True, True, GATED_MLP, JOINED
    ),
    KnownBackbone(
        "Virchow2", "hf-hub:paige-ai/Virchow2", 2560, 224, IMAGENET, "CC-BY-NC-ND-4.0", True, False, GATED_MLP, JOINED
    ),
    KnownBackbone("Prov-GigaPath", "hf-hub:prov-gigapath/prov-gigapath", 1536, 224, IMAGENET, "own terms", True, False),
    KnownBackbone("Kaiko ViT-S to L", "a file, or its folder", 1024, 224, HALF, "check", None, None, "dim 384 to 1024"),
)
