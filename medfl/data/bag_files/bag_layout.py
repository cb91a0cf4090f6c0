"""Which files of a folder are bags of features, by the layouts of TRIDENT, CLAM, STAMP and slideflow.

TRIDENT    <root>/20x_256px_0px_overlap/features_uni_v1/SLIDE.h5, or either folder above it as the root
CLAM       <root>/h5_files/SLIDE.h5 and <root>/pt_files/SLIDE.pt
STAMP      <root>/SLIDE.h5, or one folder in the root that holds these
slideflow  <root>/SLIDE.pt beside bags_config.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfl.config.regular_file import open_regular
from medfl.config.spelling import one_form, show
from medfl.data.bag_files.bag_reader import HDF5, MPP_AT_1X, SUFFIXES, tile_text
from medfl.data.bag_store import UNSTATED, FeatureOrigin
from medfl.data.images import files_below, is_ignored
from medfl.data.left_out import first_few
from medfl.errors import MedflError

SLIDEFLOW = "bags_config.json"
CLAM = ("h5_files", "pt_files")
TRIDENT = "features_"
OTHERS = ("patches", "masks", "stitches", "visualization", "slide_features_", "contours", "thumbnails")
"""Folders beside features, and what such names begin with: they hold coordinates, pictures and vectors of slides."""
SLIDES = (".svs", ".ndpi", ".tiff", ".tif", ".mrxs", ".scn", ".bif", ".dcm", ".isyntax", ".czi")
MOST_CONFIG = 1_000_000  # bytes


@dataclass(frozen=True)
class BagLayout:
    """The bags below a root.

    Attributes:
        tool: whose layout it is.
        files: slide -> its file, a path below the root with slashes, sorted by slide.
        origin: what made the features, as far as folders and what lies beside the files say it.
    """

    tool: str
    files: dict[str, str]
    origin: FeatureOrigin = UNSTATED


def find_bags(root: Path, where: str) -> BagLayout:
    """The bags below a root. `where` begins messages.

    Raises:
        MedflError: there are none, or features of several encoders, or two files of one slide.
    """
    if (root / SLIDEFLOW).is_file():
        return BagLayout("slideflow", _files(root, [root], where), _slideflow_origin(root / SLIDEFLOW, where))
    if clam := [root / name for name in CLAM if (root / name).is_dir()]:
        return BagLayout("CLAM", _files(root, clam, where))
    trident = [root] if root.name.startswith(TRIDENT) else [*root.glob(f"{TRIDENT}*"), *root.glob(f"*/{TRIDENT}*")]
    if folders := sorted(folder for folder in trident if folder.is_dir()):
        folder = _only(folders, root, where)
        encoder = folder.name.removeprefix(TRIDENT)
        return BagLayout("TRIDENT", _files(root, [folder], where), FeatureOrigin(encoder[:60]))
    if any(path.suffix.lower() in SUFFIXES for path in root.iterdir() if not is_ignored(path.name)):
        return BagLayout("STAMP", _files(root, [root], where))
    inner = sorted(path for path in root.iterdir() if path.is_dir() and not is_ignored(path.name))
    holding = [path for path in inner if not path.name.startswith(OTHERS) and _holds_bags(path)]
    if not holding:
        raise MedflError(
            f"{where}: no features in {root} (`data.root`); name a folder as TRIDENT, CLAM, STAMP or slideflow "
            f"write it: `features_ENCODER/SLIDE.h5`, `h5_files` or `pt_files`, `SLIDE.h5`, `SLIDE.pt` by {SLIDEFLOW}"
        )
    only = _only(holding, root, where)
    layout = find_bags(only, where)
    files = {slide: f"{only.name}/{path}" for slide, path in layout.files.items()}
    return BagLayout(layout.tool, files, layout.origin)


def slide_name(text: str) -> str:
    """The slide that a file name or a cell of a table means: without folders and without the ending of a known file."""
    name = one_form(text.replace("\\", "/").rpartition("/")[2])
    for suffix in (*SUFFIXES, *SLIDES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _holds_bags(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()) or any((folder / n).is_dir() for n in CLAM)


def _only(folders: list[Path], root: Path, where: str) -> Path:
    if len(folders) > 1:
        names = first_few(folder.relative_to(root).as_posix() for folder in folders)
        raise MedflError(
            f"{where}: {root} (`data.root`) holds features of several kinds: {names}; name one of these folders"
        )
    return folders[0]


def _files(root: Path, folders: Iterable[Path], where: str) -> dict[str, str]:
    """Slide -> file below any of the folders. Of two files of a slide the HDF5 one counts, it knows coordinates."""
    files: dict[str, list[str]] = {}
    for folder in folders:
        for entry in files_below(folder):
            if entry.name.lower().endswith(SUFFIXES):
                files.setdefault(slide_name(entry.name), []).append(Path(entry.path).relative_to(root).as_posix())
    if not files:
        raise MedflError(f"{where}: no features in {root} (`data.root`); its files end in {', '.join(SUFFIXES)}")
    taken = {}
    for slide, paths in sorted(files.items()):
        best = [path for path in paths if path.lower().endswith(HDF5)] or paths
        if len(best) > 1:
            raise MedflError(
                f"{where}: {root} (`data.root`) has two files of the slide {show(slide)}: {first_few(sorted(best))}; "
                f"remove one of them"
            )
        taken[slide] = best[0]
    return taken


def _slideflow_origin(file: Path, where: str) -> FeatureOrigin:
    """What slideflow notes beside its bags. Raises MedflError for a file that cannot be read."""
    try:
        with open_regular(file) as stream:
            facts: Any = json.loads(stream.read(MOST_CONFIG))
        encoder = facts["extractor"]["class"].rpartition(".")[2]
        return FeatureOrigin(encoder[:60], _slideflow_tile(facts.get("tile_px"), facts.get("tile_um")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MedflError(
            f"{where}: {file} does not say which `extractor` made the features; restore it, or move it away and state "
            f"`data.features.encoder`"
        ) from None


def _slideflow_tile(pixels: Any, microns: Any) -> str:
    """slideflow states a tile's width in microns, or as a magnification ("20x")."""
    if not isinstance(pixels, int | float) or not 0 < pixels < math.inf:
        return ""
    if isinstance(microns, str) and microns.lower().rstrip("x").replace(".", "", 1).isdecimal():
        magnification = float(microns.lower().rstrip("x"))
        microns = pixels * MPP_AT_1X / magnification if magnification else 0
    return tile_text(pixels, microns) if isinstance(microns, int | float) and 0 < microns < math.inf else ""
