"""Look into a folder of patches and propose a site file for it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from medfl.config import SiteConfig
from medfl.data.catalog import LC25000_PARENT, ORGANS, class_folders
from medfl.data.images import images_below
from medfl.data.sources.csv_table import read_rows
from medfl.data.sources.source_groups import GroupSource, groups_file
from medfl.errors import MedflError

LC25000_CLASSES = ("lung_aca", "lung_n", "lung_scc", "colon_aca", "colon_n")
LOOKED_AT = 50  # images whose size is read
GROUPS_KEY = "  # source_groups: groups.csv   # columns label,filename,source_group"
OWN_WORDS = "; or filename: every image has its own patient"
LEAKY_WORD = "; or ignore: every result is marked leaky"


@dataclass(frozen=True)
class _Seen:
    """What a folder holds: kind of source, images per class word, the files, and a sentence on source groups."""

    kind: str
    root: Path
    counts: Mapping[str, int]
    files: Sequence[Path]
    groups: str | None


def inspect_folder(root: Path, name: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """A site mapping that validates as `config.Site`, and notes on what was found and what is missing.

    Args:
        root: a folder in LC25000's layout, a folder per class, a folder with one CSV `path,label`, or such a CSV.
        name: name of the site; the folder's own by default.

    Raises:
        MedflError: no such folder, nothing in it that looks like labelled patches, or a name a site cannot have.
    """
    root = root.expanduser().absolute()
    if not root.exists():
        raise MedflError(f"there is no folder {root}; name the folder or CSV file that holds the site's patches")
    seen = _csv(root) if root.is_file() else _folder(root)
    stem = root.stem if root.is_file() else root.name
    data: dict[str, Any] = {"source": seen.kind, "root": str(seen.root)}
    site = {
        "name": name or _as_name(stem),
        "description": f"{sum(seen.counts.values())} patches of {len(seen.counts)} classes from {stem}",
        **({} if seen.kind == "lc25000" else {"labels": {word: word for word in seen.counts}}),
        "data": data,
    }
    try:
        SiteConfig.model_validate(site)
    except ValueError:
        raise MedflError(
            f'"{site["name"]}" cannot name a site: use small letters, digits and hyphens, with --name'
        ) from None
    listed = ", ".join(f"{word} {count:,}" for word, count in seen.counts.items())
    notes = [f"Found {sum(seen.counts.values()):,} images ({seen.kind}): {listed}.", _sizes(seen.files)]
    notes.append(f"Source groups: {seen.groups}." if seen.groups else _no_groups(seen.kind))
    notes.append("Microns per pixel are not known from the files: state mpp if the scanner's is known.")
    return site, notes


def site_yaml(site: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The site file's text: the mapping, with the notes and what may be added as comments."""

    def block(key: str) -> str:
        return yaml.safe_dump({key: site[key]}, sort_keys=False, allow_unicode=True, width=10_000)

    lines = [f"# {note}" for note in notes]
    lines += ["", block("name") + block("description")]
    if "labels" in site:
        lines += ["# Your name for a class on the left, the name in the pipeline's task.classes on the right."]
        lines += [block("labels")]
    lines += ["# All of the site's data is used, split by source group; no stain is simulated on it."]
    lines += [block("data").rstrip()]
    if any(note.startswith("No source groups") for note in notes):
        own = "" if site["data"]["source"] == "lc25000" else OWN_WORDS
        lines += [GROUPS_KEY + own + LEAKY_WORD]
    lines += ["", "# mpp: 0.5   # microns per pixel of the images", ""]
    return "\n".join(lines)


def _folder(root: Path) -> _Seen:
    tables = [path for path in sorted(root.glob("*.csv")) if _is_catalog(path)]
    if len(tables) == 1:  # someone has written down what lies in the folders
        return _csv(tables[0])
    folders = class_folders(root, "lc25000")
    looks_distributed = any((base / organ).is_dir() for base in (root, root / LC25000_PARENT) for organ in ORGANS)
    known = [folder.name for folder in folders if folder.name in LC25000_CLASSES]
    kind = "lc25000" if looks_distributed or (known and len(known) == len(folders)) else "folder"
    files = {folder.name: images_below(folder) for folder in class_folders(root, kind)}
    counts = {word: len(images) for word, images in files.items() if images}
    if not counts:
        raise MedflError(
            f"{root} holds no class folders with images and not one CSV with the columns path,label; sort the patches "
            f"into one folder per class, or write such a CSV"
        )
    every = [path for images in files.values() for path in images]
    groups = None
    table = groups_file(GroupSource("the folder", kind, root, None, (), {}))
    if table is not None:
        groups = f"from {table}"
    elif kind == "folder" and all(len(p.relative_to(root).parts) > 2 for p in every):
        patients = {path.relative_to(root).parts[1] for path in every}
        groups = f"the {len(patients)} sub-folders of the class folders"
    return _Seen(kind, root, counts, every, groups)


def _csv(path: Path) -> _Seen:
    rows = read_rows(path, "the CSV", [("path", "label")], optional=("source_group",))
    if not rows:
        raise MedflError(f"{path} lists no image; write one row per image")
    counts = dict(sorted(Counter(row["label"] for row in rows).items()))
    named = {row.get("source_group", "") for row in rows}
    groups = None if "" in named else f"{len(named)}, from the column source_group"
    return _Seen("csv", path, counts, [path.parent / row["path"].replace("\\", "/") for row in rows], groups)


def _is_catalog(path: Path) -> bool:
    try:
        return bool(read_rows(path, "", [("path", "label")]))
    except MedflError:
        return False


def _sizes(files: Sequence[Path]) -> str:
    """One sentence on the width and height of some of the images."""
    sizes: Counter[tuple[int, int]] = Counter()
    bad = 0
    for path in files[:: -(-len(files) // LOOKED_AT)]:
        try:
            with Image.open(path) as image:
                sizes[image.size] += 1
        except (OSError, Image.DecompressionBombError):
            bad += 1
    looked = sizes.total() + bad
    shown = ", ".join(f"{width} x {height}" for (width, height), _ in sizes.most_common(3))
    more = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
    unreadable = f" {bad} of them cannot be read." if bad else ""
    return f"Size in pixels of {looked} of them: {shown or 'none can be read'}{more}.{unreadable}"


def _no_groups(kind: str) -> str:
    ways = "name a CSV label,filename,source_group under data.source_groups"
    if kind == "folder":
        ways += ", or put the images into sub-folders, <class>/<patient>/..."
    if kind == "csv":
        ways = "fill the column source_group"
    return f"No source groups found, which say what comes from one slide or patient: {ways}; until then it is refused."


def _as_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63] or "my-site"
