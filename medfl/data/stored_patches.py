"""Patches that lie in several files, or as JPEGs: read like the one array u8[n, S, S, 3] that they stand for."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.data.block_checks import BlockChecks

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
WORKERS = min(4, os.cpu_count() or 1)
CHROMA = 0  # no subsampling: stains differ in colour, and half of it would be lost where two meet


class StoredPatches(ABC):
    """Patches on the disk, read-only; safe to be read by several threads.

    Args:
        counts: how many lie in each file.
        size: pixels a side.
        checks: of each file, where its checksums are looked at as it is read; none where that has been done.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, counts: Sequence[int], size: int, checks: Sequence[BlockChecks] = ()) -> None:
        self.checks = list(checks)
        self.ends: I64 = np.cumsum([*counts], dtype=np.int64)
        self.shape = (int(sum(counts)), size, size, 3)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the patches as an array, whatever they take on the disk."""
        return int(np.prod(self.shape))

    def __getitem__(self, key: int | slice | NDArray[Any]) -> U8:
        """One patch u8[S, S, 3], or those u8[k, S, S, 3] that a slice, row numbers or a mask name, in memory."""
        if isinstance(key, int | np.integer):
            patch: U8 = self._gather(np.array([range(len(self))[int(key)]]))[0]
            return patch
        if isinstance(key, slice):
            return self._gather(np.arange(*key.indices(len(self))))
        return self._gather(np.arange(len(self))[key])

    def __iter__(self) -> Iterator[U8]:
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of them, in memory."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def _gather(self, rows: I64) -> U8:
        """Patches by row numbers, none of them negative."""
        patches = np.empty((len(rows), *self.shape[1:]), np.uint8)
        self._fill(patches, rows, np.searchsorted(self.ends, rows, side="right"))
        return patches

    @abstractmethod
    def _fill(self, patches: U8, rows: I64, files: I64) -> None:
        """Write the patches of some rows, each in the file of that number."""


class PatchFiles(StoredPatches):
    """Patches as they are, in several files.

    Args:
        files: u8[k, S, S, 3] each, memory-mapped.
        checks: see `StoredPatches`.
    """

    def __init__(self, files: Sequence[U8], checks: Sequence[BlockChecks] = ()) -> None:
        super().__init__([len(file) for file in files], files[0].shape[1], checks)
        self.files = list(files)

    def _fill(self, patches: U8, rows: I64, files: I64) -> None:
        for number in np.unique(files):
            file, places = self.files[number], files == number
            own = rows[places] - (self.ends[number] - len(file))
            if self.checks:
                begins = getattr(file, "offset", 0) + own * patches[0].nbytes
                self.checks[number].look_at(begins, begins + patches[0].nbytes)
            patches[places] = file[own]


class JpegPatches(StoredPatches):
    """Patches as JPEGs one after another in files, decoded on a few threads.

    Args:
        files: u8[bytes] each, memory-mapped.
        sizes: bytes of each patch, by file.
        size: pixels a side.
        checks: see `StoredPatches`.
    """

    def __init__(
        self, files: Sequence[U8], sizes: Sequence[Sequence[int]], size: int, checks: Sequence[BlockChecks] = ()
    ) -> None:
        super().__init__([len(own) for own in sizes], size, checks)
        self.files = list(files)
        self.begins = np.concatenate([np.cumsum([0, *own[:-1]], dtype=np.int64) for own in sizes if own])
        self.sizes: I64 = np.concatenate([np.array(own, dtype=np.int64) for own in sizes if own])

    def _fill(self, patches: U8, rows: I64, files: I64) -> None:
        def decode_one(place: int) -> None:
            row = rows[place]
            begin = self.begins[row]
            patches[place] = decode_jpeg(self.files[files[place]][begin : begin + self.sizes[row]].tobytes())

        for number in np.unique(files) if self.checks else ():
            begins = self.begins[rows[files == number]]
            self.checks[number].look_at(begins, begins + self.sizes[rows[files == number]])
        if len(rows) == 1:
            decode_one(0)
            return
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(decode_one, range(len(rows))))


def encode_jpeg(patch: U8, quality: int) -> bytes:
    """A patch u8[S, S, 3] as a JPEG with full chroma."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(patch).save(buffer, "JPEG", quality=quality, subsampling=CHROMA)
    return buffer.getvalue()


def decode_jpeg(content: bytes) -> U8:
    """The patch u8[S, S, 3] of a JPEG of a store, whose checksum was right. Raises MedflError where it has changed
    since."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # a damaged file may raise anything
        raise MedflError(
            f"a patch of a store in the cache cannot be decoded ({error}); `medfl cache verify` finds the store, which "
            f"is then made anew"
        ) from None
