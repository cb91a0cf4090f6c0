"""A network of timm as model.json names it. Exports and the served model carry this file, so it imports nothing of
medfl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import timm.layers
import torch
from torch import Tensor, nn

TOKENS = {"cls": "token", "avg": "avg", "cls+avg": "token"}
"""What `model.pooling` may be of a vision transformer, and what timm's `global_pool` is then."""
STAGES = "stages"
"""What `model.pooling` may be of a convolutional network."""
MLP_LAYERS = ("Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked")
"""What the argument `mlp_layer` may name: timm takes a class there, which no file can hold."""


class JoinedTokens(nn.Module):
    """The class token beside the mean of the patch tokens, in the place where timm has attention pooling."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        """f32[N, T, D] -> f32[N, 2 D]; the first `prefix` tokens are the class token and registers."""
        return torch.cat([tokens[:, 0], tokens[:, self.prefix :].mean(1)], dim=1)


def pool_stages(net: nn.Module) -> int:
    """Let a network's features be the means over the map of every stage beside those it has, in place: the texture that
    early stages see lasts where stains differ. Returns how many there are.

    Raises:
        ValueError: the network has no such stages, or a head of its own kind.
    """
    pool, classifier = getattr(net, "global_pool", None), getattr(net, "classifier", getattr(net, "fc", None))
    plain = isinstance(pool, nn.Module) and hasattr(net, "forward_intermediates")
    own_head = getattr(net, "head_hidden_size", net.num_features) != net.num_features
    if not isinstance(classifier, nn.Linear) or not plain or own_head:
        raise ValueError("it is no convolutional network whose stages could be pooled")

    class PooledStages(type(net)):  # type: ignore[misc]
        """The network, whose features are pooled already where timm would pool them."""

        def forward_features(self, images: Tensor) -> Tensor:
            """f32[N, 3, S, S] -> f32[N, F]."""
            final, stages = self.forward_intermediates(images)
            return torch.cat([stage.mean((2, 3)) for stage in (*stages, final)], dim=1)

    net.__class__, net.global_pool = PooledStages, nn.Identity()
    channels = [int(stage["num_chs"]) for stage in net.feature_info]  # type: ignore[union-attr]
    return classifier.in_features + sum(channels)


def build_network(
    backbone: str,
    classes: int,
    args: Mapping[str, Any],
    pooling: str | None = None,
    hidden: int | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Build a network with initial weights.

    Args:
        backbone: a timm name.
        classes: how many.
        args: what `timm.create_model` receives; `mlp_layer` may be a name.
        pooling: how a vision transformer's tokens become features, one of TOKENS, the last norm before it, or STAGES
            (see `pool_stages`); None is as timm does it.
        hidden: width of the hidden layer of the head; None is a linear one.
        pretrained: with timm's published weights, fetched.

    Raises:
        ValueError: the network has no such tokens or stages or no linear classifier, an unknown `mlp_layer`.
    """
    args = dict(args)
    if isinstance(layer := args.get("mlp_layer"), str):
        if layer not in MLP_LAYERS:
            raise ValueError(f"mlp_layer is one of {', '.join(MLP_LAYERS)}, not {layer}")
        args["mlp_layer"] = getattr(timm.layers, layer)
    if pooling and pooling != STAGES:
        if timm.model_entrypoint(backbone).__module__ != timm.models.vision_transformer.__name__:
            raise ValueError(f"it is no vision transformer whose tokens could be pooled by {pooling}")
        if args.get("global_pool") != TOKENS[pooling]:
            args = {"fc_norm": False} | args | {"global_pool": TOKENS[pooling]}
    net: nn.Module = timm.create_model(backbone, pretrained=pretrained, num_classes=classes, **args)
    if pooling == "cls+avg":
        net.attn_pool, net.pool_include_prefix = JoinedTokens(int(net.num_prefix_tokens)), True  # type: ignore
    width = pool_stages(net) if pooling == STAGES else 2 * int(net.num_features) if pooling == "cls+avg" else None  # type: ignore
    if hidden or width:
        _replace_head(net, classes, hidden, width)
    return net


def _replace_head(net: nn.Module, classes: int, hidden: int | None, width: int | None) -> None:
    """A head, linear or with a hidden layer, over `width` features or as many as there were, where the network has its
    classifier."""
    classifier = net.get_classifier() if hasattr(net, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear):
        raise ValueError("it has no single linear classifier at its end to put another head in the place of")
    name = next(name for name, module in net.named_modules() if module is classifier)
    path, _, leaf = name.rpartition(".")
    width = width or classifier.in_features
    head = timm.layers.Mlp(width, hidden, classes) if hidden else nn.Linear(width, classes)
    setattr(net.get_submodule(path), leaf, head)
