"""A picture inside of a page, so that the page is one file."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

QUALITY = 82


def embedded(pixels: NDArray[np.uint8], side: int) -> str:
    """A picture u8[h, w, 3] as the `data:` address of a JPEG, its longer side no more than `side` pixels."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if max(image.size) > side:
        scale = side / max(image.size)
        width, height = (max(1, round(edge * scale)) for edge in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
