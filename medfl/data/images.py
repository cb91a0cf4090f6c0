"""Image files found and brought to 8-bit RGB. Imports nothing of medfl: an exported model carries this file along."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MAX_PIXELS = 100_000_000
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class Unreadable(Exception):
    """A file that gives no patch; the message says why."""


def images_below(folder: Path) -> list[Path]:
    """Image files at any depth, sorted by relative path; hidden names and other suffixes are ignored."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()  # a link to a parent folder would walk for ever
    for at, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(at)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(at, name) for name in files if is_image(name)]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def is_image(name: str) -> bool:
    """Whether a file name looks like an image: a known suffix in any case, not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB, upright. Transparent pixels become white, as the empty slide is.

    Raises:
        Unreadable: too many pixels, or a number format that has no agreed grey scale.
    """
    if image.width * image.height > MAX_PIXELS:
        raise Unreadable(f"{image.width} x {image.height} pixels; cut patches of at most 100 megapixels")
    image = ImageOps.exif_transpose(image)
    if image.mode in SIXTEEN_BIT:
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise Unreadable("32-bit grey levels; save it with 8 or 16 bits")
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        raise Unreadable("floating-point grey levels; save it with 8 or 16 bits")
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (255, 255, 255, 255)), over)
    return image if image.mode == "RGB" else image.convert("RGB")
