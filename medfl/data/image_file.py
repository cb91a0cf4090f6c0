"""An image file as a patch: decoded, 8-bit RGB, upright; or why it gives none."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable, to_rgb

PatchReader = Callable[[], U8]
"""Reads one patch u8[H, W, 3]; raises Unreadable where there is none."""


def read_image(path: Path) -> U8:
    """The image u8[H, W, 3], RGB and upright.

    Grayscale, CMYK, RGBA (over white), palette and 16-bit images are converted and the EXIF orientation is honoured.

    Raises:
        Unreadable: the file gives no patch; says why in a few words.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(to_rgb(image))
    except UnidentifiedImageError:
        raise Unreadable("zero bytes" if path.stat().st_size == 0 else "not an image") from None
    except Exception as error:  # a damaged file may raise anything
        raise Unreadable(failure_reason(error)) from None


def image_readers(paths: Iterable[Path]) -> list[PatchReader]:
    """A reader for each of some image files."""
    return [functools.partial(read_image, path) for path in paths]


def failure_reason(error: BaseException) -> str:
    """Why a patch could not be read, in a few words, from what reading it raised."""
    while error.__cause__ is not None:  # MONAI wraps what a transform raises; the cause is what the user needs
        error = error.__cause__
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels; cut patches of at most 100 megapixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"damaged: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
