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

    def flattened(self, tensor: Tensor) -> Tensor | None:
        """A tensor of this shape as f32[numel] in the order of the native vector, without a copy; None where its memory
        has another order."""
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        return tensor.as_strided((self.numel,), (1,)) if tensor.is_contiguous(memory_format=order) else None


@dataclass(frozen=True)
class VectorBlock:
    """Neighbouring values of a native vector: some whole tensors, or a piece of a large one.

    Attributes:
        columns: where they lie in the native vector, the padding between tensors included.
        members: positions of the tensors among the slots.
        within: which values of one large tensor, in the order of its memory, they are; None with whole tensors.
    """

    columns: slice
    members: slice
    within: slice | None = None


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

    def blocks(self, size: int) -> list[VectorBlock]:
        """Blocks of at most `size` values, from the first value to the last: a tensor of a quarter of that or more by
        itself, in pieces where it is larger, and between those the smaller ones together."""
        blocks: list[VectorBlock] = []
        for position, slot in enumerate(self.slots):
            begin, end = slot.offset, slot.offset + slot.numel
            if 4 * slot.numel >= size:
                for first in range(begin, end, size):
                    last = min(first + size, end)
                    within = slice(first - begin, last - begin)
                    blocks.append(VectorBlock(slice(first, last), slice(position, position + 1), within))
            elif blocks and blocks[-1].within is None and end - blocks[-1].columns.start <= size:
                before = blocks.pop()
                blocks.append(VectorBlock(slice(before.columns.start, end), slice(before.members.start, position + 1)))
            else:
                blocks.append(VectorBlock(slice(begin, end), slice(position, position + 1)))
        return blocks

    def tensors(self, vector: Tensor) -> list[Tensor]:
        """The tensors of a native vector [padded], as views of it."""
        return [slot.view(vector) for slot in self.slots]

    def stages(self) -> dict[str, list[Slot]]:
        """Slots by stage of the network: the top-level child, or one level deeper where children are numbered
        (`layer1`, `blocks.3`), or the stem and head modules by name."""
        grouped: dict[str, list[Slot]] = {}
        for slot in self.slots:
            parts = slot.name.split(".")
            stage = (
                ".".join(parts[:2])
                if len(parts) > 1 and parts[1].isdigit() and not parts[0][-1].isdigit()
                else parts[0]
            )
            grouped.setdefault(stage, []).append(slot)
        return grouped

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
