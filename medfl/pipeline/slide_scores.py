"""What a model over bags says of slides: calibrated probabilities, and how much each tile counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medfl.config.spelling import show
from medfl.data.bag_files.bag_layout import find_bags
from medfl.data.bag_files.bag_reader import read_bag, read_header
from medfl.data.bag_store import Features
from medfl.data.left_out import first_few
from medfl.data.rgb import Unreadable
from medfl.data.table_file import open_table
from medfl.errors import MedflError
from medfl.metrics.logit_calibration import Calibration
from medfl.model.bag_network import Bags
from medfl.site.measurement import probabilities
from medfl.site.shared_model import SharedModel

Attention = NDArray[np.float32]


def score_bag(
    shared: SharedModel, facts: Mapping[str, Any], features: Features
) -> tuple[NDArray[np.float64], Attention]:
    """One slide of features [n, F]: calibrated probabilities f64[C], and the weights f32[n] of its tiles, of sum 1.

    Args:
        shared: the model's workbench with its weights in the network.
        facts: its model.json.
        features: as they come from the encoder.
    """
    shared.net.eval()
    with torch.inference_mode():
        bags = Bags(torch.from_numpy(np.asarray(features, np.float32)).to(shared.model.device), (len(features),))
        logits = shared.net(bags).cpu().double()
        (weights,) = shared.net.attention(bags)  # type: ignore[operator]
    return probabilities(logits, Calibration.of(facts))[0], weights.float().cpu().numpy()


def score_folder(
    shared: SharedModel, facts: Mapping[str, Any], directory: Path, attention: Path | None = None
) -> list[tuple[str, list[float]]]:
    """Every slide of a folder of features in a layout that `source: features` reads: [(slide, p per class)], sorted.

    Args:
        shared, facts: as `score_bag` takes them.
        directory: the folder.
        attention: where a table `<slide>.csv` of x, y and weight is written for each slide.

    Raises:
        MedflError: no folder, no features, damaged files (listed), features of another encoder or length.
    """
    if not directory.is_dir():
        raise MedflError(f"there is no folder {directory}; name a folder of features")
    layout, rows = find_bags(directory, str(directory)), []
    problems = {}
    for slide, path in layout.files.items():
        try:
            header = read_header(directory / path)
            _check(facts, directory / path, header.dim, header.origin.encoder or layout.origin.encoder)
            features, coords = read_bag(directory / path)
        except (Unreadable, OSError) as error:
            problems[slide] = f"{show(slide)} ({getattr(error, 'strerror', None) or error})"
            continue
        scores, weights = score_bag(shared, facts, features)
        rows.append((slide, scores.tolist()))
        if attention is not None:
            write_attention(attention, slide, coords, weights)
    if problems:
        raise MedflError(
            f"{directory}: {len(problems)} of {len(layout.files)} slides cannot be read: {first_few(problems.values())}"
            f"; replace or remove them"
        )
    return rows


def check_encoder(facts: Mapping[str, Any], encoder: str, whose: str) -> None:
    """Raise MedflError where features are not those of the model's encoder, as far as both say it."""
    trained = (facts.get("origin") or {}).get("encoder") or ""
    if trained and encoder and trained != encoder:
        raise MedflError(
            f"{whose} has features of {show(encoder)}, and the model was trained on those of {show(trained)}; extract "
            f"them anew, or, where two names mean one, state `data.features.encoder` in the site file"
        )


def _check(facts: Mapping[str, Any], path: Path, dim: int, encoder: str) -> None:
    check_encoder(facts, encoder, str(path))
    if dim != facts["args"]["dim"]:
        raise MedflError(
            f"{path} has {dim} numbers a tile, and the model reads {facts['args']['dim']}; take its encoder"
        )


def write_attention(folder: Path, slide: str, coords: NDArray[Any] | None, weights: Attention) -> None:
    """Write `<slide>.csv` of x, y and the weight of each tile. Raises MedflError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_table(folder / f"{slide}.csv", ("x", "y", "attention"), private=True) as writer:
            places = (
                [("", "")] * len(weights) if coords is None else coords.reshape(-1, coords.shape[-1])[:, :2].tolist()
            )
            for (x, y), weight in zip(places, weights.tolist(), strict=True):
                writer.writerow((x, y, f"{weight:.6g}"))
    except OSError as error:
        raise MedflError(f"--attention: {folder} cannot be written ({error.strerror})") from None
