"""Generated feature folders in TRIDENT's layout: slides of which a few tiles tell the class, drawn from a seed.

A tile's vector is noise, plus what its slide and its site add to every vector; those of a few tiles have, besides, the
direction of the slide's class. So the mean over a slide hardly knows the class, and sites differ by an offset, as two
scanners do in the features of one encoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medfl.config import GeneratedBags
from medfl.data.bag_files.write_bags import TileGrid, features_folder, write_features, write_label_table
from medfl.data.scratch_folder import making
from medfl.errors import MedflError
from medfl.seeds import seed_for

ENCODER = "generated"
BAGS_VERSION = 1  # part of every digest; raise it whenever the drawing changes
STRENGTH = 4.0  # length of a class's direction, in deviations of the noise
OF_A_SLIDE = 0.3  # deviation of what a slide adds to every vector
SECOND_SLIDE = 0.4  # share of patients with two slides


def generated_bags(cache: Path, site: str | None, classes: Sequence[str], settings: GeneratedBags) -> Path:
    """The folder of a site's generated features, written into the cache at first use; `site` None draws those of one
    place, without an offset, to be dealt.

    Raises:
        MedflError: too few patients or numbers for the classes, a cache that cannot be written.
    """
    if settings.patients < 3 * len(classes) or settings.dim < len(classes):
        raise MedflError(
            f"`data.bags` draws {settings.patients} patients and vectors of {settings.dim} numbers for {len(classes)} "
            f"classes; `patients` is at least {3 * len(classes)} and `dim` {len(classes)}"
        )
    if settings.tiles[0] > settings.tiles[1] or settings.telling > settings.tiles[0]:
        raise MedflError(
            f"`data.bags.tiles: [{settings.tiles[0]}, {settings.tiles[1]}]` is the least and the most tiles of a "
            f"slide, of which `telling: {settings.telling}` tell the class; state them in that order"
        )
    text = json.dumps([BAGS_VERSION, site, list(classes), settings.model_dump()], sort_keys=True)
    folder = cache / f"bags-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    try:
        if not folder.is_dir():
            with making(folder) as draft:
                _write(draft, site, classes, settings)
    except OSError as error:
        raise MedflError(f"generated features cannot be written to {folder} ({error.strerror or error})") from None
    return folder


def _write(root: Path, site: str | None, classes: Sequence[str], settings: GeneratedBags) -> None:
    """Draw everything into a folder."""
    shared = np.random.default_rng(seed_for(settings.seed, "classes"))
    axes, _ = np.linalg.qr(shared.standard_normal((settings.dim, settings.dim)))
    rng = np.random.default_rng(seed_for(settings.seed, "bags", site or ""))
    offset = settings.shift * rng.standard_normal(settings.dim) if site else np.zeros(settings.dim)
    grid = TileGrid()
    folder, rows = features_folder(root, ENCODER, grid), []
    folder.mkdir(parents=True)
    labels = rng.permutation(np.arange(settings.patients) % len(classes))
    for patient, label in enumerate(labels):
        for number in range(1 + int(rng.random() < SECOND_SLIDE)):
            name = f"{site or 'generated'}-{patient + 1:03d}"
            slide = f"{name}-{'ab'[number]}"
            tiles = int(rng.integers(settings.tiles[0], settings.tiles[1] + 1))
            vectors = rng.standard_normal((tiles, settings.dim)) + offset
            vectors += OF_A_SLIDE * rng.standard_normal(settings.dim)
            vectors[rng.choice(tiles, settings.telling, replace=False)] += STRENGTH * axes[:, label]
            side = int(np.ceil(np.sqrt(tiles)))
            coords = np.stack([np.arange(tiles) % side, np.arange(tiles) // side], axis=1) * grid.pixels
            write_features(folder / f"{slide}.h5", vectors.astype(np.float32), coords, ENCODER, grid)
            rows.append((name, slide, classes[label]))
    write_label_table(root, rows)
