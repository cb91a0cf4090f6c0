"""Small bags of features, and folders of them as other tools lay them out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import torch

from medfl.data.bag_store import BagStore
from medfl.model.bag_network import Bags

DIM = 6


def bag(seed: int, tiles: int = 3, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tiles, dim)).astype(np.float32)


def bags_of(parts) -> Bags:
    return Bags(torch.cat([torch.as_tensor(part) for part in parts]), tuple(map(len, parts)))


def h5(path: Path, features, name="features", coords="fitting", attrs: Mapping = {}, place: Mapping = {}) -> Path:
    """A file of features with attributes of the file and of its coordinates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[name] = features
        file.attrs.update(attrs)
        if coords is not None:
            file["coords"] = np.zeros((len(features), 2)) if isinstance(coords, str) else coords
            file["coords"].attrs.update(place)
    return path


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_layout(root: Path, tool: str, slides: Mapping[str, np.ndarray]) -> Path:
    """A folder as a tool lays it out; the encoder is "uni", and a tile has 256 pixels at half a micron."""
    stamp = {"extractor": "uni", "unit": "um", "tile_size_um": 128.0, "tile_size_px": 256}
    for slide, features in slides.items():
        if tool == "TRIDENT":
            place = {"patch_size": 256, "target_magnification": 20}
            h5(root / f"20x_256px_0px_overlap/features_uni/{slide}.h5", features, place=place)
            h5(root / f"20x_256px_0px_overlap/patches/{slide}_patches.h5", np.zeros((1, 2)), name="coords_only")
        elif tool == "CLAM":
            h5(root / f"h5_files/{slide}.h5", features, place={"patch_size": 256, "patch_level": 0})
            (root / "pt_files").mkdir(exist_ok=True)
            torch.save(torch.from_numpy(features), root / f"pt_files/{slide}.pt")
        elif tool == "STAMP":
            h5(root / f"uni-1f2e/{slide}.h5", features.astype(np.float16), name="feats", attrs=stamp)
        else:
            root.mkdir(parents=True, exist_ok=True)
            torch.save(torch.from_numpy(features), root / f"{slide}.pt")
            facts = {"extractor": {"class": "a.b.uni", "kwargs": {}}, "tile_px": 256, "tile_um": "20x"}
            (root / "bags_config.json").write_text(json.dumps(facts))
    return root


TOOLS = ("TRIDENT", "CLAM", "STAMP", "slideflow")


def toy_bag_store(name: str, seed: int, train: int = 8, val: int = 4, test: int = 4, classes: int = 3) -> BagStore:
    """Bags of 2 to 6 instances, one of which shows the class; two bags a patient."""
    rng, total = np.random.default_rng(seed), train + val + test
    labels = np.arange(total) % classes
    sizes = rng.integers(2, 7, total)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    features = rng.standard_normal((offsets[-1], DIM)).astype(np.float32)
    features[offsets[:-1], labels] += 4
    rows = np.arange(total)
    splits = {"train": rows[:train], "val": rows[train : train + val], "test": rows[train + val :]}
    return BagStore(name, features, offsets, labels, rows // 2, splits, f"bags-{seed}")
