"""Any image as 8-bit RGB. Imports nothing of medfl: an exported model carries this file along."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
EIGHT_BIT = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
FOURTEEN_BITS = (1 << 14) - 1
WHITE_IS_ZERO = {262: 0}
"""TIFF's tag of the photometric interpretation, and its value for grey levels that count down."""


class Unreadable(Exception):
    """A file that gives no patch; the message says why."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB, upright. Transparent pixels become white, as the empty slide is.

    Raises:
        Unreadable: too many pixels, several pages or frames, or a number format that has no agreed grey scale.
    """
    from PIL import Image, ImageOps

    if image.width * image.height > MAX_PIXELS:
        raise Unreadable(f"{image.width} x {image.height} pixels; cut patches of at most 100 megapixels")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # whose first image is the photograph
        raise Unreadable(f"{getattr(image, 'n_frames', 'several')} pages or frames; save the one that is meant alone")
    deep = image.mode in SIXTEEN_BIT or any(";16" in str(tile) for tile in getattr(image, "tile", []))
    downwards = any(getattr(image, "tag_v2", {}).get(tag) == value for tag, value in WHITE_IS_ZERO.items())
    image = ImageOps.exif_transpose(image)
    if image.mode == "I" and image.format == "PNG":  # 16 bits, in Pillow before 11.3
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in SIXTEEN_BIT and downwards:
        raise Unreadable("16-bit grey levels whose zero is white; save it with 8 bits")
    if deep:
        _check_range(image)
    if image.mode in SIXTEEN_BIT:
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "I":
        raise Unreadable("32-bit grey levels; save it with 8 or 16 bits")
    elif image.mode == "F":
        raise Unreadable("floating-point grey levels; save it with 8 or 16 bits")
    elif image.mode in TRANSPARENT or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (255, 255, 255, 255)), over)
    elif image.mode not in EIGHT_BIT:
        raise Unreadable(f"colours in {image.mode}; save it as 8-bit RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_range(image: Image.Image) -> None:
    """Raise Unreadable for 16-bit levels that look like those of a camera of 8 to 14 bits: they would come out black.

    An image of one level says nothing of its range. Of colours with 16 bits Pillow keeps the upper 8.
    """
    extrema = np.array(image.getextrema(), dtype=np.int64).reshape(-1, 2)
    colours = [row for row, band in zip(extrema, image.getbands(), strict=True) if band not in ("A", "a")]
    low, high = min(row[0] for row in colours), max(row[1] for row in colours)
    if image.mode not in SIXTEEN_BIT:
        low, high = low * 256, high * 256 + (255 if high > low else 0)
    if low < high <= FOURTEEN_BITS or (image.mode not in SIXTEEN_BIT and not high):
        raise Unreadable(
            f"16-bit levels that end at {high}, as of a camera with fewer bits; save it with 8 bits, or scaled to 65535"
        )
