"""A pipeline as a run folder keeps it: sites inlined, paths absolute, keys in their present spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from medfl.config.pipeline_config import Baseline
from medfl.config.yaml_file import read_mapping
from medfl.errors import MedflError


def read_resolved(file: Path) -> dict[str, Any]:
    """The keys and values of a resolved pipeline, of this version or an older one. Raises MedflError as `read_mapping`
    does."""
    raw = read_mapping(file, "pipeline")
    rename_old_keys(raw, file)
    return raw


def rename_old_keys(raw: dict[str, Any], file: Path | str = "this file") -> tuple[str, ...]:
    """Put keys in an old spelling into the present one, in place; a sentence for the user about each. Raises MedflError
    where both spellings are used."""
    return (*_rename_weights(raw.get("model"), file), *_move_baseline(raw))


def _rename_weights(model: Any, file: Path | str) -> tuple[str, ...]:
    """`pretrained` and `checkpoint` were two keys; a checkpoint's images were normalised as timm says for the name."""
    if not isinstance(model, dict):
        return ()
    weight_keys = {key: model.pop(key) for key in ("pretrained", "checkpoint") if key in model}
    checkpoint, pretrained = weight_keys.get("checkpoint"), weight_keys.get("pretrained")
    if (checkpoint and pretrained) or ((checkpoint or pretrained) and "weights" in model):
        raise MedflError(
            f"{file}: state `model.weights` alone; `model.pretrained` and `model.checkpoint` are its old spellings"
        )
    if checkpoint:
        model["weights"] = checkpoint
        model.setdefault("input", "timm")
        return (
            f"`model.checkpoint` is now written `model.weights`, and needs `model.input`; here `input: timm`, which is "
            f"timm's default for {model.get('backbone')}: make sure that it is what the weights' authors used",
        )
    if pretrained:
        model["weights"] = "pretrained"
        return ("`model.pretrained: true` is now written `model.weights: pretrained`",)
    return ()


def _move_baseline(raw: dict[str, Any]) -> tuple[str, ...]:
    """Until version 0.1 a baseline stood in `method`, as if it were one."""
    method = raw.get("method")
    if not isinstance(method, list) or raw.get("baseline") is not None:
        return ()
    for baseline in get_args(Baseline):
        for entry in (baseline, {"name": baseline}):
            if entry in method:
                raw["method"] = [other for other in method if other != entry]
                raw["baseline"] = baseline
                return (f"`method: [{baseline}]` is now written `baseline: {baseline}`",)
    return ()
