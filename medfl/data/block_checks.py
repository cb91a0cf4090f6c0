"""The checksums of a large file's blocks, each looked at when something in it is first read.

So a store opens at once however large it is, and no byte of it is used that is not what was written.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfl.data.store_record import BLOCK, Damaged
from medfl.errors import MedflError

I64 = NDArray[np.int64]


class BlockChecks:
    """What of a file has been looked at; copies of this process (`fork`) share it.

    Args:
        file: written once.
        due: CRC-32 of each of its blocks.

    Raises:
        Damaged: it has another size than was written.
    """

    def __init__(self, file: Path, due: Sequence[int]) -> None:
        size = file.stat().st_size
        if -(-size // BLOCK) != len(due):
            raise Damaged(f"{file.name}: {size:,} bytes are not what was written")
        self.file, self.due = file, due
        self.memory: NDArray[np.uint8] = np.memmap(file, dtype=np.uint8, mode="r")
        self.seen = np.frombuffer(mmap.mmap(-1, max(1, len(due))), dtype=np.bool_)[: len(due)]

    def look_at(self, begins: I64, ends: I64) -> None:
        """Compare the blocks in which bytes begin to end lie, i64[k] each, that nobody has looked at.

        Raises:
            MedflError: one of them is not what was written.
        """
        firsts, lasts = begins // BLOCK, (ends - 1) // BLOCK
        for block in np.unique(np.concatenate([firsts, lasts, *_between(firsts, lasts)])).tolist():
            if self.seen[block]:
                continue
            if zlib.crc32(self.memory[block * BLOCK : (block + 1) * BLOCK].data) != self.due[block]:
                raise MedflError(
                    f"a patch of a store in the cache is damaged ({self.file}, block {block}); `medfl cache verify` "
                    f"finds the store, which is then made anew"
                )
            self.seen[block] = True


def _between(firsts: I64, lasts: I64) -> list[I64]:
    """The blocks between the first and the last of rows that are larger than a block."""
    large = lasts - firsts > 1
    return [np.arange(first + 1, last) for first, last in zip(firsts[large], lasts[large], strict=True)]
