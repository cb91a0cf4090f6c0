"""A site's slides as a folder of features in TRIDENT's layout, for this and other tools to read."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medfl.data.bag_files.bag_reader import attribute, hdf5_library
from medfl.data.bag_files.write_bags import MADE_OF, TABLE, TileGrid, features_folder, write_bag, write_label_table
from medfl.data.encode_bags import ENCODED_VERSION
from medfl.data.left_out import first_few
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_collection import SlideCollection
from medfl.data.slides.slide_folder import SlideFiles
from medfl.data.slides.tissue_tiles import of_tiles, tiles_print, tissue_tiles
from medfl.errors import MedflError
from medfl.pipeline.frozen_encoder import FrozenEncoder
from medfl.pipeline.site_slides import plain_look


@dataclass(frozen=True)
class Extraction:
    """What became of a site's slides.

    Attributes:
        folder: where the files are.
        written, present: slides whose features were computed, and were there already.
        damaged: slides that cannot be read, with the reason.
        table: the table of labels, None where nothing states any, or another one lies in its place.
    """

    folder: Path
    written: tuple[str, ...]
    present: tuple[str, ...]
    damaged: tuple[str, ...]
    table: Path | None


def extract_features(
    collection: SlideCollection, encoder: FrozenEncoder, size: int, out: Path, name: str, say: Callable[[str], None]
) -> Extraction:
    """Write the features of every slide's tiles of tissue, `<out>/20x_224px_0px_overlap/features_<name>/<slide>.h5`.

    A file that is there and was made of the same slide, tiles and encoder stays; so a stopped extraction goes on.

    Args:
        collection: the slides.
        encoder: what gives the vectors.
        size: pixels a side of a tile as the encoder sees it.
        out: the job's folder; made where it is not there.
        name: what the encoder is called.
        say: who is told of each slide.

    Raises:
        MedflError: no slide; two slides of one name; a file of another tool in the way; `out` cannot be written.
    """
    hdf5_library("features are written as HDF5")
    scale, slides = collection.scale, list(collection.slides.values())
    if twice := [stem for stem, count in Counter(slide.stem for slide in slides).items() if count > 1]:
        raise MedflError(
            f"{collection.spec.where}: several slides in {collection.folder} are called {first_few(twice)}, and "
            f"features are named after slides; rename them, or extract the folders one by one"
        )
    grid = TileGrid(size, scale.size * scale.mpp / size, round(scale.overlap * size / scale.size))
    folder = features_folder(out, name, grid)
    done: dict[bool, list[SlideFiles]] = {True: [], False: []}
    damaged = []
    try:
        for slide in slides:
            try:
                count, computed = _extract(collection, encoder, grid, folder, name, slide)
            except (Unreadable, OSError) as error:
                if str(getattr(error, "filename", None) or "").startswith(str(out)):
                    raise
                reason = getattr(error, "strerror", None) or error
                damaged.append(f"{slide.name} ({reason})")
                say(f"{slide.name}: {reason}")
                continue
            done[computed].append(slide)
            say(f"{slide.name}: {count:,} tiles{'' if computed else ', there already'}")
        table = _write_table(collection, out, done[True] + done[False])
    except OSError as error:
        raise MedflError(
            f"{out} cannot be written ({error.strerror or error}); name another folder with --out"
        ) from None
    written, present = (tuple(slide.name for slide in done[computed]) for computed in (True, False))
    return Extraction(folder, written, present, tuple(damaged), table)


def _extract(
    collection: SlideCollection, encoder: FrozenEncoder, grid: TileGrid, folder: Path, name: str, slide: SlideFiles
) -> tuple[int, bool]:
    """Tiles of a slide, and whether their features were computed now."""
    tiles = tissue_tiles(collection, slide)
    shaping = [ENCODED_VERSION, tiles_print(collection, slide), grid.pixels, dict(encoder.settings)]
    made_of = hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:32]
    file = folder / f"{slide.stem}.h5"
    if file.exists():
        try:
            before = attribute(file, MADE_OF)
        except Unreadable:
            before = ""
        if not before:
            raise MedflError(f"{file} is there and is none of this command's; move it away, or name another --out")
        if before == made_of:
            return len(tiles.x), False
    features = of_tiles(encoder, collection, tiles, plain_look(grid.pixels))
    places = np.stack([tiles.x, tiles.y], axis=1)
    write_bag(folder, slide.stem, features, places, name, replace(grid, base_mpp=tiles.mpp), made_of)
    return len(tiles.x), True


def _write_table(collection: SlideCollection, out: Path, slides: list[SlideFiles]) -> Path | None:
    """`slides.csv` beside the features, of slides whose label is known; another table in its place is left there."""
    rows = [
        (collection.patient(slide) or slide.stem, slide.stem, collection.facts(slide).label)
        for slide in sorted(slides, key=lambda slide: slide.stem)
        if collection.facts(slide).label
    ]
    if not rows:
        return None
    if (file := out / TABLE).is_file():
        with file.open(newline="", encoding="utf-8") as stream:
            if not {tuple(row) for row in list(csv.reader(stream))[1:]} <= set(rows):
                return None
    return write_label_table(out, rows)
