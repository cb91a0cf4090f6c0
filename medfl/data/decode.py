"""Image files to patches of one size, with MONAI's dictionary transforms.

The resize is `torch.nn.functional.interpolate(mode="area")` on float32 [3, H, W] followed by rounding half up, which
a served model repeats exactly with PyTorch alone. Patches that are not square are stretched, as there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable, to_rgb

WORKERS = min(4, os.cpu_count() or 1)
AHEAD = 64  # files decoded before they are asked for: keeps the workers busy and memory small


@dataclass(frozen=True)
class DecodedPatch:
    """One decoded file: u8[S, S, 3], and width and height of the file in pixels."""

    image: U8
    width: int
    height: int


def decode(paths: Sequence[Path], size: int, field: int | None = None) -> Iterator[DecodedPatch | Unreadable]:
    """Decode, convert to 8-bit RGB and resize to `size` x `size`, in order, on a few threads.

    Args:
        paths: image files.
        size: pixels a side of the result.
        field: take the central `field` x `field` pixels first, mirrored at the border where the file is smaller.

    Yields:
        a patch, or why there is none. Grayscale, CMYK, RGBA (over white), palette and 16-bit images are converted and
        the EXIF orientation is honoured.
    """
    from monai.transforms import Compose, Resized, ResizeWithPadOrCropd  # seconds, the first time

    crop = [ResizeWithPadOrCropd(["image"], (field, field), mode="reflect")] if field else []
    pipeline = Compose([_reading(field), *crop, Resized(["image"], (size, size), mode="area")])

    def one(path: Path) -> DecodedPatch | Unreadable:
        try:
            item = pipeline({"image": path})
        except Exception as error:  # MONAI wraps what a transform raises; the cause is what the user needs
            return Unreadable(reason(error, path))
        width, height = item["pixels"]
        return DecodedPatch(to_bytes(item["image"]), width, height)

    with _plain_tensors(), ThreadPoolExecutor(WORKERS) as pool:
        waiting = [pool.submit(one, path) for path in paths[:AHEAD]]
        for index in range(len(paths)):
            result = waiting[index % AHEAD].result()
            if index + AHEAD < len(paths):
                waiting[index % AHEAD] = pool.submit(one, paths[index + AHEAD])
            yield result


def to_bytes(image: torch.Tensor) -> U8:
    """Grey levels f32[3, H, W] to u8[H, W, 3], rounded half up and clipped."""
    rounded: U8 = (image.float() + 0.5).floor().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return rounded


def _reading(field: int | None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The first dictionary transform: `image` from a path to f32[3, H, W] in 0..255, and its `pixels` (width, height).

    MONAI's PIL reader swaps the axes unless told not to, which would feed every patch on its side. It raises
    Unreadable for an image that shows less than half of the field, most of which would be mirrored.
    """
    from monai.data.image_reader import PILReader

    reader = PILReader(converter=to_rgb, reverse_indexing=False)

    def read(data: dict[str, Any]) -> dict[str, Any]:
        array, meta = reader.get_data(reader.read(data["image"]))
        pixels = meta["width"], meta["height"]
        if field and 2 * min(pixels) < field:
            raise Unreadable(f"{pixels[0]} x {pixels[1]} pixels show less than half of the {field} the model sees")
        planes = torch.tensor(array).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
        return {"image": planes, "pixels": pixels}

    return read


def reason(error: BaseException, path: Path) -> str:
    """Why a file gave no patch, in a few words, from what reading it raised."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "zero bytes" if path.stat().st_size == 0 else "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels; cut patches of at most 100 megapixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


@contextlib.contextmanager
def _plain_tensors() -> Iterator[None]:
    """Switch MONAI's metadata tracking off, which costs more than the decoding."""
    from monai.data import get_track_meta, set_track_meta

    tracked = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(tracked)
