"""A model as a MONAI Bundle: a folder that `monai.bundle` loads and runs where there is no medfl.

MONAI Bundle specification: https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import medfl.data.images
import medfl.data.rgb
import medfl.data.table_cells
import medfl.export.classify
import medfl.model.timm_network
from medfl.data.carried_code import RENDERING, carried
from medfl.errors import MedflError
from medfl.export.bundle_metadata import metadata, readme
from medfl.export.exported_model import ExportedModel

SCRIPTS = (medfl.export.classify, medfl.data.images, medfl.data.rgb, medfl.data.table_cells)
BATCH = 64
SOFTMAX: dict[str, Any] = {"_target_": "monai.transforms.Activationsd", "keys": "pred", "softmax": True}
DIVIDED = "$lambda logits: logits / @temperature"
SCALED = f"{DIVIDED} * torch.as_tensor(@scale).to(logits) + torch.as_tensor(@bias).to(logits)"
DATASET: dict[str, Any] = {
    "_target_": "monai.data.Dataset",
    "data": {"_target_": "scripts.classify.datalist", "directory": "@dataset_dir"},
    "transform": "@preprocessing",
}
DATALOADER: dict[str, Any] = {
    "_target_": "monai.data.DataLoader",
    "dataset": "@dataset",
    "batch_size": "@batch_size",
    "shuffle": False,
}
EVALUATOR: dict[str, Any] = {
    "_target_": "scripts.classify.Classifier",
    "dataloader": "@dataloader",
    "network": "@network_def",
    "weights": "@weights",
    "inferer": "@inferer",
    "postprocessing": "@postprocessing",
    "classes": "@classes",
    "device": "@device",
    "output": "@output_file",
}


def write_bundle(source: ExportedModel, folder: Path) -> None:
    """Write the bundle into an empty folder.

    Raises:
        MedflError: a class or a setting of the backbone that MONAI would take for an expression.
    """
    contents = {"configs/metadata.json": metadata(source), "configs/inference.json": inference_config(source)}
    for name in ("configs", "models", "docs", "scripts"):
        (folder / name).mkdir()
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "docs" / "README.md").write_text(readme(source), encoding="utf-8")
    (folder / "scripts" / "__init__.py").touch()
    modules = (*SCRIPTS, *(RENDERING if source.render else ()), *((medfl.model.timm_network,) if source.shaped else ()))
    for name, text in carried(modules, "scripts").items():
        (folder / "scripts" / name).write_text(text, encoding="utf-8")
    # The form MONAI reads; it holds tensors by name and nothing else, and is read with weights_only=True.
    state = {name: tensor.detach().contiguous().clone() for name, tensor in source.net.state_dict().items()}
    torch.save(state, folder / "models" / "model.pt")


def inference_config(source: ExportedModel) -> dict[str, Any]:
    """configs/inference.json: the steps of `medfl predict` in MONAI's terms.

    Raises:
        MedflError: a class or a setting of the backbone that MONAI would take for an expression.
    """
    facts = source.facts
    for key in ("classes", "args", "backbone", "render"):
        refuse_expressions(facts[key], f"{source.model.directory / 'model.json'}: `{key}`")
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_file": "$@bundle_root + '/eval/probabilities.csv'",
        "weights": "$@bundle_root + '/models/model.pt'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "batch_size": BATCH,
        "classes": source.classes,
        "temperature": source.calibration.temperature,
        **(source.calibration.vector or {}),
        "network_def": _network(source),
        "preprocessing": {"_target_": "monai.transforms.Compose", "transforms": _preprocessing(source)},
        "dataset": DATASET,
        "dataloader": DATALOADER,
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "postprocessing": {"_target_": "monai.transforms.Compose", "transforms": _postprocessing(source)},
        "evaluator": EVALUATOR,
        "run": ["$@evaluator.run()"],
    }


def _preprocessing(source: ExportedModel) -> list[dict[str, Any]]:
    """From an image file to what the network takes, as `medfl predict` does it."""
    facts = source.facts
    drawn = {"_target_": "scripts.transforms.serving_planes", "specs": source.render}
    rendering = [{"_target_": "monai.transforms.Lambdad", "keys": "image", "func": drawn}] if source.render else []
    return [
        {
            "_target_": "monai.transforms.LoadImaged",
            "keys": "image",
            "reader": {
                "_target_": "monai.data.PILReader",
                "converter": {"_target_": "scripts.rgb.to_rgb", "_mode_": "callable"},
                "reverse_indexing": False,
            },
            "ensure_channel_first": True,
        },
        {
            "_target_": "monai.transforms.Resized",
            "keys": "image",
            "spatial_size": [source.size, source.size],
            "mode": "area",
        },
        {
            "_target_": "monai.transforms.Lambdad",
            "keys": "image",
            "func": {"_target_": "scripts.classify.round_half_up", "_mode_": "callable"},
        },
        *rendering,
        {
            "_target_": "monai.transforms.NormalizeIntensityd",
            "keys": "image",
            "subtrahend": [255 * value for value in facts["mean"]],
            "divisor": [255 * value for value in facts["std"]],
            "channel_wise": True,
        },
        {"_target_": "monai.transforms.EnsureTyped", "keys": "image", "dtype": "$torch.float32", "track_meta": False},
    ]


def _postprocessing(source: ExportedModel) -> list[dict[str, Any]]:
    """From logits [C] of a patch to calibrated probabilities."""
    function = SCALED if source.calibration.scale else DIVIDED
    calibrated = {"_target_": "monai.transforms.Lambdad", "keys": "pred", "func": function, "track_meta": False}
    return [calibrated, SOFTMAX]


def _network(source: ExportedModel) -> dict[str, Any]:
    """The network without its weights."""
    if source.shaped:
        return {
            "_target_": "scripts.timm_network.build_network",
            "backbone": source.facts["backbone"],
            "classes": len(source.classes),
            "args": source.facts["args"],
            "pooling": source.facts.get("pooling"),
            "hidden": source.facts.get("hidden"),
        }
    return {
        **source.facts["args"],
        "_target_": "timm.create_model",
        "model_name": source.facts["backbone"],
        "pretrained": False,
        "num_classes": len(source.classes),
    }


def refuse_expressions(value: Any, where: str) -> None:
    """MONAI evaluates texts that begin with `$`, looks up those with `@` and `%`, and calls a mapping's `_target_`.

    Raises:
        MedflError: `value`, a JSON-like value, holds one.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            refuse_expressions("$" if str(key).startswith("_") else item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_expressions(item, where)
    elif isinstance(value, str) and value.startswith(("$", "@", "%")):
        raise MedflError(f"{where} would be an expression in a MONAI Bundle; export with --format onnx, or rename it")
