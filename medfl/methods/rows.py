"""The updates of one round side by side, for rules that a streamed mean cannot serve.

K updates of P values are rows of a temporary file, memory-mapped, so what stays in memory is one block of columns at a
time whatever K and P are. The file has no name once it is open: it is gone when it is closed, and when the process is.
Set TMPDIR to a folder on a disk where the temporary folder is kept in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfl.errors import MedflError
from medfl.protocol import Reply

BLOCK = 1 << 16  # columns looked at together


class Rows:
    """Updates f32[K, P] on the disk and buffers f32[K, B] in memory, K at most `capacity`; rows come in site order.

    Args:
        capacity: replies a round may have.
        values: P.
    """

    def __init__(self, capacity: int, values: int) -> None:
        self._shape = (capacity, values)
        self._file: IO[bytes] | None = None
        self._map: NDArray[np.float32] = np.empty((0, values), np.float32)
        self._row: dict[str, int] = {}
        self._buffers: dict[str, Tensor] = {}

    @property
    def sites(self) -> list[str]:
        """Who is in, sorted by name."""
        return sorted(self._row)

    def add(self, reply: Reply) -> None:
        """Keep one reply's update and buffers. Raises MedflError where the temporary folder is full."""
        assert reply.update is not None
        assert reply.buffers is not None
        if self._file is None:
            self._file = self._open()
            self._map = np.memmap(self._file, np.float32, "r+", shape=self._shape)
        row = self._row.setdefault(reply.site, len(self._row))
        self._map[row] = reply.update.numpy()
        self._buffers[reply.site] = reply.buffers

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(columns, f64[K, n]) of the updates from left to right, n at most BLOCK."""
        order = [self._row[site] for site in self.sites]
        for begin in range(0, self._map.shape[1], BLOCK):
            columns = slice(begin, min(begin + BLOCK, self._map.shape[1]))
            yield columns, torch.from_numpy(self._map[order, columns].astype(np.float64))

    def buffers(self) -> Tensor:
        """f64[K, B]."""
        return torch.stack([self._buffers[site] for site in self.sites]).double()

    def close(self) -> None:
        """Give the file up."""
        self._map = self._map[:0].copy()
        if self._file is not None:
            self._file.close()

    def _open(self) -> IO[bytes]:
        """A file of the full size, its place taken at once: a full disk must not show when the map is written."""
        size = 4 * self._shape[0] * self._shape[1]
        try:
            file = tempfile.TemporaryFile(prefix="medfl-rows-")  # noqa: SIM115 - closed in `close`
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            raise MedflError(
                f"the updates of a round take {size / 1e6:,.0f} MB in the temporary folder {tempfile.gettempdir()}, "
                f"which it does not give ({error.strerror}); set TMPDIR to a folder with room"
            ) from None
        return file
