"""The displacements of one round's local steps, kept so that their inner products and sums can be formed afterwards.

In float32 the weights after each step are copied, and differences are formed block by block where they are needed:
two neighbouring float32 weights subtract without rounding. In bf16 the differences themselves are rounded, never the
weights, whose steps would be lost in bf16's eight bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medfl.methods.core.context import SiteContext
from medfl.model.memory_limits import allocate, fits

STORAGES = ("auto", "device", "host", "bf16")
BLOCK = {"cpu": 1 << 16}  # columns formed at a time: they stay in cache, and sums run in float64 between blocks
LARGE_BLOCK = 1 << 20  # on a GPU a block should fill it
STRIP = 16  # rows of a product for which a CPU's matrix kernels are at their best
CPU = torch.device("cpu")


class Steps:
    """Steps d_k = w_{k-1} - w_k of one round, k = 1..T, w_0 = s.

    Args:
        local: the round; the buffer is one of its reusable ones.
        storage: "device" and "host" keep float32 there; "bf16" keeps bfloat16 on the device; "auto" is "device"
            where that fits and else "host", which gives the same numbers. Without a GPU the first two are one.
    """

    def __init__(self, local: SiteContext, storage: str) -> None:
        self.local = local
        self.rounded = storage == "bf16"
        device, shape = local.received.device, (local.steps, len(local.received))
        dtype = torch.bfloat16 if self.rounded else torch.float32
        name = "steps_bf16" if self.rounded else "steps"
        buffer = local.scratch.get(name)
        if buffer is None or buffer.dtype != dtype or buffer.shape[1] != shape[1] or buffer.shape[0] < shape[0]:
            local.scratch.pop(name, None)
            size = dtype.itemsize * shape[0] * shape[1]
            away = device.type == "cuda" and (storage == "host" or (storage == "auto" and not fits(size, device)))
            local.scratch[name] = buffer = allocate(
                shape,
                CPU if away else device,
                f"ECGR's record of {shape[0]} local steps",
                "set `method.ecgr.storage: bf16` for half of it, or fewer `training.local_steps`"
                if not self.rounded
                else "take fewer `training.local_steps`",
                dtype,
                pinned=away,
            )
        self.rows = buffer[: shape[0]]

    def record(self) -> None:
        """Keep step number `local.step`, just taken."""
        local, row = self.local, self.rows[self.local.step - 1]
        now = local.model.vector
        if not self.rounded:
            row.copy_(now, non_blocking=True)
            return
        before = local.vector("steps_before")
        if local.step == 1:
            before.copy_(local.start)
        row.copy_(before.sub_(now))
        before.copy_(now)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(columns, f32[T, <= block] on the device) of the matrix of steps; a block is valid until the next."""
        start = self.local.start
        width = BLOCK.get(start.device.type, LARGE_BLOCK)
        work = torch.empty(len(self.rows), min(width, len(start)), device=start.device)
        for begin in range(0, len(start), width):
            columns = slice(begin, min(begin + width, len(start)))
            kept = self.rows[:, columns].to(start.device, non_blocking=True)
            block = work[:, : kept.shape[1]]
            if self.rounded:
                block.copy_(kept)
            else:
                torch.sub(start[columns], kept[0], out=block[0])
                torch.sub(kept[:-1], kept[1:], out=block[1:])
            yield columns, block

    def gram(self) -> Tensor:
        """f64[T, T] on the CPU: the inner products of all pairs of steps."""
        return gram((block for _, block in self.blocks()), len(self.rows), self.local.received.device)

    def combine(self, factors: Tensor) -> Tensor:
        """sum_k factors_k d_k, a native vector [padded], in a reusable buffer."""
        total = self.local.vector("steps_combined")
        factors = factors.to(total)
        for columns, block in self.blocks():
            torch.mv(block.T, factors, out=total[columns])
        return total


def gram(blocks: Iterator[Tensor], count: int, device: torch.device) -> Tensor:
    """f64[T, T] on the CPU: sum over blocks f32[T, n] of X X^T, of which only the upper strips are multiplied."""
    total = torch.zeros(count, count, dtype=torch.float64, device=device)
    strip = STRIP if device.type == "cpu" else count
    for block in blocks:
        for begin in range(0, count, strip):
            rows = slice(begin, begin + strip)
            total[: begin + strip, rows] += block[: begin + strip] @ block[rows].T
    total = total.triu()
    return (total + total.triu(1).T).cpu()
