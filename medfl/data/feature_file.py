"""Features of a site's patches on the disk, beside the patches that they were computed from.

A file is named by a key of whatever shapes its values, holds f32[n, F] and the sha256 of them, and appears whole or not
at all. One that is damaged, or of other patches, counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medfl.data.atomic_file import replacing

FEATURES_VERSION = 1
log = logging.getLogger(__name__)


def feature_file(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The file, in a store's folder, of features that these settings of plain values shape."""
    text = json.dumps({"version": FEATURES_VERSION, **settings}, sort_keys=True)
    return folder / f"features-{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def load_features(file: Path, rows: int) -> Tensor | None:
    """Features f32[rows, F]; None without a sound file of as many."""
    try:
        with safe_open(file, framework="pt") as stored:
            features: Tensor = stored.get_tensor("features")
            sound = (stored.metadata() or {}).get("sha256") == _digest(features)
    except (OSError, SafetensorError):
        return None
    return features if sound and features.dtype == torch.float32 and features.shape[:-1] == (rows,) else None


def save_features(file: Path, features: Tensor) -> None:
    """Keep features f32[n, F] for the next run. Where they cannot be written, the log says so and the run goes on."""
    try:
        with replacing(file) as staged:
            save_file({"features": features.contiguous()}, staged, {"sha256": _digest(features)})
    except (OSError, SafetensorError) as error:
        log.warning("features could not be kept in %s (%s); they are computed anew in the next run", file.parent, error)


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()
