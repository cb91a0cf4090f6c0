"""Which files of a folder are images. Imports nothing of medfl: an exported model carries this file along."""

from __future__ import annotations

import os
from pathlib import Path

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp")


def images_below(folder: Path) -> list[Path]:
    """Image files at any depth, sorted by relative path; hidden names and other suffixes are ignored."""
    paths: list[Path] = []
    visits: set[tuple[int, int]] = set()  # a link to a parent folder would walk for ever
    for at, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(at)
        if (status.st_dev, status.st_ino) in visits:
            folders.clear()
            continue
        visits.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(at, name) for name in files if is_image(name)]
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def is_image(name: str) -> bool:
    """Whether a file name looks like an image: a known suffix in any case, not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
