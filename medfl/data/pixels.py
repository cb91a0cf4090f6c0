"""A patch as a program holds it, of NumPy, PyTorch or Pillow, as 8-bit RGB."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable, to_rgb


def to_patch(image: Any) -> U8:
    """One patch u8[H, W, 3], RGB.

    Args:
        image: a Pillow image; or an array or tensor [H, W, 3], [3, H, W] or grey [H, W], of grey levels u8 or of
            floating-point values in [0, 1], not normalised.

    Raises:
        Unreadable: it is none of these; says why.
    """
    if _is_picture(image):
        return np.asarray(to_rgb(image))
    if hasattr(image, "detach"):
        image = image.detach().cpu().numpy()
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=-1)
    if pixels.ndim == 3 and pixels.shape[-1] != 3 and pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise Unreadable(f"an array of shape {list(pixels.shape)}; patches are [H, W, 3], [3, H, W] or grey [H, W]")
    if np.issubdtype(pixels.dtype, np.floating):
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise Unreadable(
                "floating-point values outside [0, 1]; give grey levels u8, or values in [0, 1], not normalised: that "
                "is done as the model asks for it"
            )
        pixels = np.floor(pixels * 255 + 0.5).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise Unreadable(f"values of type {pixels.dtype}; give grey levels u8, or floating-point values in [0, 1]")
    return np.ascontiguousarray(pixels)


def patch_list(images: Any) -> list[Any]:
    """The patches of an array or tensor [N, ...], or of any iterable of images; one image is a list of one."""
    if _is_picture(images) or (hasattr(images, "ndim") and images.ndim in (2, 3)):
        return [images]
    if not isinstance(images, Iterable):
        raise Unreadable(f"{type(images).__name__} is no array of patches and no list of images")
    return list(images)


def _is_picture(image: Any) -> bool:
    """Whether it is one of Pillow's, which has been imported then."""
    library = sys.modules.get("PIL.Image")
    return library is not None and isinstance(image, library.Image)
