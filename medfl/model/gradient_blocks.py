"""A network's gradient as methods act on it, one block of values after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from torch import Tensor

from medfl.model.flat_model import FlatModel
from medfl.model.layout import VectorBlock


def gradient_blocks(
    model: FlatModel, blocks: Sequence[VectorBlock], out: Tensor, bind: bool
) -> Iterator[tuple[VectorBlock, Tensor]]:
    """Each block with its gradient f32[n], which may be written to.

    That of a large tensor is the memory where autograd has put it, if that is in the order of the vector and no other
    gradient lies there. All others are gathered.

    Args:
        model: whose parameters have gradients.
        blocks: of its native vector.
        out: native vector [padded] to gather into.
        bind: let the gradients that are gathered become views of `out`, so that the optimiser sees what is written.
    """
    grads = [parameter.grad for parameter in model.parameters if parameter.grad is not None]
    storages = Counter(map(storage_address, grads)) if any(block.within for block in blocks) else Counter[int]()
    for block in blocks:
        if block.within is not None:
            slot, grad = model.layout.slots[block.members][0], model.parameters[block.members][0].grad
            if grad is not None and storages[storage_address(grad)] <= 1 and (flat := slot.flattened(grad)) is not None:
                yield block, flat[block.within]
                continue
        model.gather_gradient(out, block.members)
        if bind:
            model.scatter_gradient(out, block.members)
        yield block, out[block.columns]


def storage_address(tensor: Tensor) -> int:
    """Where the memory begins that a tensor shares with others, if any."""
    return tensor.untyped_storage().data_ptr()
