"""What a hub's download of a small vision transformer leaves, in the manner of H-optimus-0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

MEAN, STD = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "reg_tokens": 1}


def write_hub_folder(folder: Path, backbone: str = "vit_tiny_patch16_224", **args: Any) -> Path:
    """Write config.json and model.safetensors; the weights are seeded random ones."""
    folder.mkdir(exist_ok=True)
    args = {**VIT, "init_values": 1e-5, **args}
    torch.manual_seed(3)
    net = timm.create_model(backbone, num_classes=0, **args)
    save_file(net.state_dict(), folder / "model.safetensors")
    given = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "crop_pct": 1.0, "license": "x-1.0"}
    given |= {"input_size": [3, 32, 32]}
    config = {
        "architecture": backbone,
        "num_classes": 0,
        "model_args": {**args, "num_classes": 0},
        "pretrained_cfg": given,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
