"""Any image as 8-bit RGB. Imports nothing of medfl: an exported model carries this file along."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 100_000_000
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class Unreadable(Exception):
    """A file that gives no patch; the message says why."""


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
