"""Where the tensors of a network lie in one flat vector: native (padded, on the device) and on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGN = 16  # float32 values in 64 bytes, one cache line


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies: `offset` in the native vector, `start` in wire order."""

    name: str
    shape: torch.Size
    offset: int
    start: int
    channels_last: bool

    @property
    def numel(self) -> int:
        """Number of values."""
        return self.shape.numel()

    def view(self, vector: Tensor) -> Tensor:
        """This tensor as a view of a native vector [padded]."""
        flat = vector[self.offset : self.offset + self.numel]
        if self.channels_last:
            out, inner, height, width = self.shape
            return flat.view(out, height, width, inner).permute(0, 3, 1, 2)
        return flat.view(self.shape)


@dataclass(frozen=True)
class Layout:
    """The order of tensors in a flat vector: `size` values on the wire, `padded` in the native vector."""

    slots: tuple[Slot, ...]
    size: int
    padded: int

    @staticmethod
    def of(tensors: Mapping[str, Tensor], channels_last: bool, align: int = ALIGN) -> Layout:
        """Lay out tensors in the given order."""
        slots: list[Slot] = []
        offset = start = 0
        for name, tensor in tensors.items():
            slots.append(Slot(name, tensor.shape, offset, start, channels_last and tensor.dim() == 4))
            start += tensor.numel()
            offset += -(-tensor.numel() // align) * align
        return Layout(tuple(slots), start, offset)

    def blocks(self, size: int) -> list[tuple[slice, slice]]:
        """Runs of neighbouring tensors of at most `size` values, or of one larger tensor, that together are the native
        vector: (columns, positions among the slots)."""
        edges = [0]
        for position, slot in enumerate(self.slots[1:], start=1):
            if slot.offset + slot.numel - self.slots[edges[-1]].offset > size:
                edges.append(position)
        columns = [*(self.slots[position].offset for position in edges), self.padded]
        edges.append(len(self.slots))
        return [(slice(*columns[i : i + 2]), slice(*edges[i : i + 2])) for i in range(len(edges) - 1)]

    def pack(self, native: Tensor) -> Tensor:
        """Native vector [padded] -> new wire vector f32[size] on the CPU."""
        wire = torch.empty(self.size, dtype=native.dtype)
        for slot in self.slots:
            wire[slot.start : slot.start + slot.numel].view(slot.shape).copy_(slot.view(native))
        return wire

    def unpack(self, wire: Tensor, native: Tensor) -> Tensor:
        """Wire vector f32[size] -> into a native vector [padded], which is returned; its padding is left alone."""
        if wire.numel() != self.size:
            raise ValueError(f"a vector of {wire.numel():,} values does not fit a layout of {self.size:,}")
        for slot in self.slots:
            slot.view(native).copy_(wire[slot.start : slot.start + slot.numel].view(slot.shape))
        return native
