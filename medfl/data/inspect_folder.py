"""Look into a folder of patches and propose a site file for it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from medfl.config import SiteConfig
from medfl.config.regular_file import open_regular
from medfl.config.spelling import check_decodable, show
from medfl.data.image_file import FORMATS
from medfl.data.images import images_below
from medfl.data.left_out import first_few, left_out
from medfl.data.slides.slide_inspection import holds_slides, inspect_slides
from medfl.data.sources.class_folders import visible_folders
from medfl.data.sources.csv_table import OtherTable, read_rows
from medfl.data.sources.group_table import GROUPS_CSV
from medfl.data.sources.lc25000 import LC25000_PARENT, ORGANS, lc25000_folders, lc25000_tables
from medfl.errors import MedflError

LC25000_CLASSES = ("lung_aca", "lung_n", "lung_scc", "colon_aca", "colon_n")
SAMPLE = 50  # images whose size is read
UNICODE_BREAKS = re.compile("[\x85\u2028\u2029]")  # YAML ends a line at them, also inside a text
GROUPS_KEY = "  # source_groups: groups.csv   # columns label,filename,source_group"
OWN_WORDS = "; or filename: every image has its own patient"
LEAKY_WORD = "; or ignore: every result is marked leaky"


@dataclass(frozen=True)
class FolderContent:
    """What a folder holds: kind of source, images per class word, the files, and a sentence on source groups."""

    kind: str
    root: Path
    counts: Mapping[str, int]
    files: Sequence[Path]
    groups: str | None
    loose: Sequence[str] = ()
    """Images beside the sub-folders that hold all others."""


def inspect_folder(root: Path, name: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """A site mapping that validates as `config.Site`, and notes on what was found and what is missing.

    Args:
        root: a folder in LC25000's layout, a folder per class, a folder with one CSV `path,label`, or such a CSV; or a
            folder of whole slides.
        name: name of the site; the folder's own by default.

    Raises:
        MedflError: no such folder, nothing in it that looks like labelled patches, or a name a site cannot have.
    """
    root = Path(os.path.expanduser(root)).absolute()
    if not os.path.exists(root):
        raise MedflError(f"there is no folder {root}; name the folder or CSV file that holds the site's patches")
    try:
        if root.is_dir() and holds_slides(root):
            site, notes = inspect_slides(root, name or _as_name(root.name))
            return _checked(site), [show(note) for note in notes]
        content = _folder(root) if root.is_dir() else _csv(root)
    except OSError as error:
        raise MedflError(f"{error.filename or root} cannot be read: {error.strerror}") from None
    check_decodable((str(root), *content.counts, *map(str, content.files)), "data that cannot be used")
    stem = root.stem if root.is_file() else root.name
    data: dict[str, Any] = {"source": content.kind, "root": str(content.root)}
    site = {
        "name": name or _as_name(stem),
        "description": f"{sum(content.counts.values())} patches of {len(content.counts)} classes from {stem}",
        **({} if content.kind == "lc25000" else {"labels": {word: word for word in content.counts}}),
        "data": data,
    }
    _checked(site)
    counts = ", ".join(f"{word} {count:,}" for word, count in content.counts.items())
    notes = [f"Found {sum(content.counts.values()):,} images ({content.kind}): {counts}."]
    if content.kind != "csv":
        notes += left_out(root, {path.relative_to(root).as_posix() for path in content.files})
    notes.append(_sizes(content.files))
    if content.loose:
        notes.append(f"Beside the patients' sub-folders, not in one: {first_few(content.loose)}; move them into one.")
    notes.append(f"Source groups: {content.groups}." if content.groups else _no_groups(content.kind))
    notes.append("Microns per pixel are not known from the files: state mpp if the scanner's is known.")
    return site, [show(note) for note in notes]  # names of folders stand in them, and may hold line breaks


def _checked(site: dict[str, Any]) -> dict[str, Any]:
    """The mapping, if it is one of a site. Raises MedflError for a name that a site cannot have."""
    try:
        SiteConfig.model_validate(site)
    except ValueError:
        raise MedflError(
            f'"{site["name"]}" cannot name a site: use small letters, digits and hyphens, with --name'
        ) from None
    return site


def site_yaml(site: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The site file's text: the mapping, with the notes and what may be added as comments."""

    def block(key: str) -> str:
        text, escaped = (
            yaml.safe_dump({key: site[key]}, sort_keys=False, allow_unicode=readable, width=10_000)
            for readable in (True, False)
        )
        return escaped if UNICODE_BREAKS.search(text) else text

    lines = [f"# {note}" for note in notes]
    lines += ["", block("name") + block("description")]
    if "labels" in site:
        lines += ["# Your name for a class on the left, the pipeline's on the right; null leaves its patches out."]
        lines += [block("labels")]
    lines += ["# All of the site's data is used, split by source group; no stain is simulated on it."]
    lines += [block("data").rstrip()]
    if any(note.startswith("No source groups") for note in notes):
        own = "" if site["data"]["source"] == "lc25000" else OWN_WORDS
        lines += [GROUPS_KEY + own + LEAKY_WORD]
    lines += ["", "# mpp: 0.5   # microns per pixel of the images", ""]
    return "\n".join(lines)


def _folder(root: Path) -> FolderContent:
    tables = [path for path in sorted(root.glob("*.csv")) if _is_catalog(path)]
    if len(tables) == 1:  # someone has written down what lies in the folders
        return _csv(tables[0])
    folders = lc25000_folders(root)
    has_organs = any((base / organ).is_dir() for base in (root, root / LC25000_PARENT) for organ in ORGANS)
    lc25000 = has_organs or (bool(folders) and all(folder.name in LC25000_CLASSES for folder in folders))
    folders = folders if lc25000 else visible_folders(root)
    files = {folder.name: images_below(folder) for folder in folders}
    counts = {word: len(images) for word, images in files.items() if images}
    if not counts:
        raise MedflError(
            f"{root} holds no class folders with images and not one CSV with the columns path,label; sort the patches "
            f"into one folder per class, or write such a CSV"
        )
    every = [path for images in files.values() for path in images]
    groups, loose = None, [name for name in (p.relative_to(root) for p in every) if len(name.parts) <= 2]
    usual = lc25000_tables(root) if lc25000 else [root / GROUPS_CSV]
    table = next((path for path in usual if path.is_file()), None)
    if table is not None:
        groups = f"from {table}"
    elif not lc25000 and not loose:
        patients = {path.relative_to(root).parts[1] for path in every}
        groups = f"the {len(patients)} sub-folders of the class folders"
    beside = [] if lc25000 or groups or len(loose) == len(every) else [name.as_posix() for name in loose]
    return FolderContent("lc25000" if lc25000 else "folder", root, counts, every, groups, beside)


def _csv(path: Path) -> FolderContent:
    rows = read_rows(path, "the CSV", [("path", "label")], optional=("source_group",))
    if not rows:
        raise MedflError(f"{path} lists no image; write one row per image")
    counts = dict(sorted(Counter(row["label"] for row in rows).items()))
    names = {row.get("source_group", "") for row in rows}
    groups = None if "" in names else f"{len(names)}, from the column source_group"
    return FolderContent("csv", path, counts, [path.parent / row["path"].replace("\\", "/") for row in rows], groups)


def _is_catalog(path: Path) -> bool:
    try:
        return bool(read_rows(path, "the CSV", [("path", "label")]))
    except OtherTable:
        return False


def _sizes(files: Sequence[Path]) -> str:
    """One sentence on the width and height of some of the images."""
    sizes: Counter[tuple[int, int]] = Counter()
    bad = 0
    for path in files[:: -(-len(files) // SAMPLE)]:
        try:
            with open_regular(path) as stream, Image.open(stream, formats=FORMATS) as image:
                sizes[image.size] += 1
        except Exception:  # a damaged file may raise anything
            bad += 1
    total = sizes.total() + bad
    common = ", ".join(f"{width} x {height}" for (width, height), _ in sizes.most_common(3))
    more = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
    unreadable = f" {bad} of them cannot be read." if bad else ""
    return f"Size in pixels of {total} of them: {common or 'none can be read'}{more}.{unreadable}"


def _no_groups(kind: str) -> str:
    ways = "name a CSV label,filename,source_group under data.source_groups"
    if kind == "folder":
        ways += ", or put the images into sub-folders, <class>/<patient>/..."
    if kind == "csv":
        ways = "fill the column source_group"
    return f"No source groups found, which say what comes from one slide or patient: {ways}; until then it is refused."


def _as_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63] or "my-site"
