"""Sites whose tables have columns of subgroups, and a pipeline over them, for tests."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from tests.datafiles import write_image
from tests.tiny import write_tiny

PATIENTS, PATCHES = 24, 2
SCANNERS = {"ward": ("Aperio AT2", "aperio  at2"), "clinic": ("APERIO AT2", "P1000"), "north": ("p1000", "Aperio AT2")}
"""Scanners of a site's patients, by turns; the others say nothing of theirs."""


def write_site(folder: Path, site: str, seed: int) -> Path:
    """Patches of two classes that a colour tells apart, and a table of them; returns the table."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(PATIENTS):
        label = ("tumour", "normal")[patient % 2]
        scanner = SCANNERS[site][patient // 2 % 2] if site in SCANNERS else ""
        for patch in range(PATCHES):
            shade = rng.normal(120 if label == "tumour" else 150, 25)
            image = np.clip(rng.normal(shade, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
            name = f"{site}-{patient}-{patch}.png"
            write_image(folder / site / name, image)
            rows.append([name, label, f"p{patient}", scanner, 40 + patient])
    columns = ["path", "label", "source_group", *(["scanner", "age"] if site in SCANNERS else [])]
    table = folder / site / "patches.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *(row[: len(columns)] for row in rows)])
    return table


def write_pipeline(folder: Path, **changes: Any) -> Path:
    """Two training sites and two held out; `south` has no column of subgroups."""
    names = ("ward", "clinic", "north", "south")
    sites = [
        {"name": name, "mpp": 0.5, "data": {"source": "csv", "root": str(write_site(folder, name, at))}}
        for at, name in enumerate(names)
    ]
    settings: dict[str, Any] = {
        "task": {"classes": ["tumour", "normal"], "malignant": ["tumour"]},
        "data": {"source": "csv", "mode": "own", "size": 32, "mpp": 0.5},
        "sites": {"train": sites[:2], "held_out": sites[2:]},
        "evaluation": {"resamples": 100, "subgroups": ["scanner", {"age": [50, 60]}]},
        "training": {"rounds": 1},
    }
    return write_tiny(folder, **{**settings, **changes})
