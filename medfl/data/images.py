"""Which files of a folder are images. Imports nothing of medfl: an exported model carries this file along."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp")
SYSTEM_FOLDERS = frozenset(
    (
        *("__macosx", "network trash folder", "temporary items"),  # macOS and its archives
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot"),  # network storage
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),  # Windows
        *("lost+found", "~snapshot", "__pycache__"),
    )
)
"""Folders in which systems and programs keep thumbnails and deleted files, in small letters."""


def images_below(folder: Path) -> list[Path]:
    """Image files at any depth, sorted by relative path; other suffixes, hidden names and `SYSTEM_FOLDERS` are ignored.

    Raises OSError for a folder that cannot be read.
    """
    return [folder / name for name in image_names_below(folder)]


def image_names_below(folder: Path) -> list[str]:
    """The paths of `images_below` relative to the folder, with slashes, sorted; a folder may hold a million of them."""
    start = len(os.path.join(os.fspath(folder), ""))
    images = (entry for entry in files_below(folder) if is_image(entry.name) and not _is_special(entry))
    return sorted(entry.path[start:].replace(os.sep, "/") for entry in images)


def files_below(folder: Path, also_ignored: bool = False) -> Iterator[os.DirEntry[str]]:
    """Every file at any depth, links to folders followed; what `is_ignored` names as well where asked for.

    Raises OSError for a folder that cannot be read, unless it is ignored otherwise.
    """
    visits: set[tuple[int, int]] = set()  # a link to a parent folder would walk for ever
    folders = [(os.fspath(folder), False)]
    while folders:
        at, ignored = folders.pop()
        try:
            status = os.stat(at)
            entries = [] if (status.st_dev, status.st_ino) in visits else list(os.scandir(at))
        except OSError:
            if ignored:
                continue
            raise
        visits.add((status.st_dev, status.st_ino))
        for entry in entries:
            if is_ignored(entry.name) and not also_ignored:
                continue
            if is_folder(entry):
                folders.append((entry.path, ignored or is_ignored(entry.name)))
            else:
                yield entry


def is_image(name: str) -> bool:
    """Whether a file name looks like an image: a known suffix in any case, not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or a folder of `SYSTEM_FOLDERS`: none of it is anybody's data."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a pipe or a device, which opening would wait for. A link to nothing is a file that lacks."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False
