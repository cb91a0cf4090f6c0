"""The updates of one round side by side, for rules that a streamed mean cannot serve.

K updates of P values are rows of a temporary file, memory-mapped, so what stays in memory is one block of columns at a
time whatever K and P are. The file has no name once it is open: it is gone when it is closed, and when the process is.
Set TMPDIR to a folder on a disk where the temporary folder is kept in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from medfl.protocol import Reply

BLOCK = 1 << 16  # columns looked at together


class Rows:
    """Updates f32[K, P] on the disk and buffers f32[K, B] in memory, K at most `capacity`; rows come in site order.

    Args:
        capacity: replies a round may have.
        values: P.
    """

    def __init__(self, capacity: int, values: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="medfl-rows-")  # noqa: SIM115 - closed in `close`
        self._map = np.memmap(self._file, np.float32, "w+", shape=(capacity, values))
        self._row: dict[str, int] = {}
        self._buffers: dict[str, Tensor] = {}

    @property
    def sites(self) -> list[str]:
        """Who is in, sorted by name."""
        return sorted(self._row)

    def add(self, reply: Reply) -> None:
        """Keep one reply's update and buffers."""
        assert reply.update is not None
        assert reply.buffers is not None
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
        del self._map
        self._file.close()
