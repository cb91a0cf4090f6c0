"""The updates of every site at the server, for rules that a streamed mean cannot serve: in a file, memory-mapped.

K updates of P values of one round lie side by side, so what stays in memory is one block of columns at a time whatever
K and P are. The file is one of `medfl.model.disk_vector`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfl.messages import Reply
from medfl.model.disk_vector import nameless

BLOCK = 1 << 16  # columns looked at together


class UpdateMatrix:
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
            self._file = nameless(4 * self._shape[0] * self._shape[1], "the updates of a round take")
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
