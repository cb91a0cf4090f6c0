"""Vectors whose memory is a file's: the system writes their pages out, and takes them back, when it needs the memory.

The files have no name once they are open: they are gone with their vector, and with the process. Set TMPDIR to a folder
on a disk where the temporary folder is kept in memory.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import IO

import numpy as np
import torch
from torch import Tensor

from medfl.errors import MedflError

LARGE = 1 << 26
"""Bytes beyond which a vector that is seldom read lies in a file."""


def copied(vector: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A copy with memory of its own, a file's where it is large and a file has room for it.

    Args:
        vector: of any type.
        dtype: what the copy is made of; by default the same.
    """
    dtype = dtype or vector.dtype
    if vector.numel() * dtype.itemsize > LARGE:
        with contextlib.suppress(MedflError):
            return on_disk(vector, dtype=dtype)
    return vector.to(dtype, copy=True)


def on_disk(vector: Tensor, what: str = "a large vector takes", dtype: torch.dtype | None = None) -> Tensor:
    """A copy whose memory is a file's; the file goes with it. Raises MedflError where there is no room."""
    dtype = dtype or vector.dtype
    size = vector.numel() * dtype.itemsize
    with nameless(size, what) as file:
        mapped = np.memmap(file, np.uint8, "r+", shape=(size,))
    return torch.from_numpy(mapped).view(dtype).view(vector.shape).copy_(vector)


def nameless(size: int, what: str) -> IO[bytes]:
    """A file of the full size, its place taken at once: a full disk must not show when the map is written."""
    try:
        file = tempfile.TemporaryFile(prefix="medfl-rows-")  # noqa: SIM115 - closed by the caller
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    except OSError as error:
        raise MedflError(
            f"{what} {size / 1e6:,.0f} MB in the temporary folder {tempfile.gettempdir()}, which it does not give "
            f"({error.strerror}); set TMPDIR to a folder with room"
        ) from None
    return file
