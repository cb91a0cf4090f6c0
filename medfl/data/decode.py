"""Patches of one size, as a model sees them, from whatever their source reads.

The resize is `torch.nn.functional.interpolate(mode="area")` on float32 [3, H, W] followed by rounding half up, which
a served model repeats exactly with PyTorch alone. Patches that are not square are stretched, as there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from medfl.data.image_file import BUDGET, PIXELS_AT_ONCE, PatchReader, failure
from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable
from medfl.data.transforms import to_bytes

WORKERS = min(4, os.cpu_count() or 1)
AHEAD = 64  # patches decoded before they are asked for: keeps the workers busy and memory small


@dataclass(frozen=True)
class DecodedPatch:
    """One decoded patch: u8[S, S, 3], and width and height in pixels of what its source gave."""

    image: U8
    width: int
    height: int


def decode(readers: Sequence[PatchReader], size: int, field: int | None = None) -> Iterator[DecodedPatch | Unreadable]:
    """Read patches and resize them to `size` x `size`, in order, on a few threads.

    Args:
        readers: one for each patch; what it raises is taken for the reason why there is no patch.
        size: pixels a side of the result.
        field: take the central `field` x `field` pixels first, mirrored at the border where the patch is smaller.

    Yields:
        a patch, or why there is none.
    """

    def decode_one(read: PatchReader) -> DecodedPatch | Unreadable:
        try:
            with BUDGET.patch():
                pixels = read()
                height, width = pixels.shape[:2]
                _check_field(width, height, field)
                if height * width > PIXELS_AT_ONCE and not field:
                    return DecodedPatch(_resize_in_bands(pixels, size), width, height)
                planes = _planes(pixels)
                if field:
                    planes = _central(planes, field)
                return DecodedPatch(to_bytes(_resize(planes, size)), width, height)
        except Exception as error:
            return failure(error)

    with ThreadPoolExecutor(WORKERS) as pool:
        results = [pool.submit(decode_one, read) for read in readers[:AHEAD]]
        for index in range(len(readers)):
            result = results[index % AHEAD].result()
            if index + AHEAD < len(readers):
                results[index % AHEAD] = pool.submit(decode_one, readers[index + AHEAD])
            yield result


def _planes(pixels: U8) -> torch.Tensor:
    """Pixels u8[H, W, 3] as f32[3, H, W], one colour after another in memory."""
    return torch.tensor(pixels).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)


def _central(planes: torch.Tensor, field: int) -> torch.Tensor:
    """The central f32[3, field, field] of f32[3, H, W], mirrored at the border where that is smaller."""
    height, width = planes.shape[1:]
    down, right = max(field - height, 0), max(field - width, 0)
    if down or right:
        around = (right // 2, right - right // 2, down // 2, down - down // 2)
        planes = torch.nn.functional.pad(planes[None], around, mode="reflect")[0]
    top, left = (max(extent // 2 - field // 2, 0) for extent in planes.shape[1:])
    return planes[:, top : top + field, left : left + field].contiguous()


def _resize(planes: torch.Tensor, size: int) -> torch.Tensor:
    """Grey levels f32[3, H, W] to f32[3, size, size]; what has that size already stays as it is."""
    if planes.shape[1:] == (size, size):
        return planes
    return torch.nn.functional.interpolate(planes[None], (size, size), mode="area")[0]


def _resize_in_bands(pixels: U8, size: int) -> U8:
    """The same resize of a large image, row by row of the result: as floating point the whole takes gigabytes."""
    height, rows = len(pixels), []
    for row in range(size):
        planes = _planes(pixels[row * height // size : -(-(row + 1) * height // size)])
        rows.append(torch.nn.functional.interpolate(planes[None], (1, size), mode="area")[0])
    return to_bytes(torch.cat(rows, dim=1))


def _check_field(width: int, height: int, field: int | None) -> None:
    """Raise Unreadable for a patch that shows less than half of the field, most of which would be mirrored."""
    if field and 2 * min(width, height) < field:
        raise Unreadable(f"{width} x {height} pixels show less than half of the {field} the model sees")
