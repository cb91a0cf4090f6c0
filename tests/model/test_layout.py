"""Where tensors lie in flat vectors."""

import pytest
import torch

from medfl.model.layout import Layout

SIZES = {"a": 3, "b": 50, "c": 16, "d": 90, "e": 5, "f": 7}


@pytest.mark.parametrize("size", [1, 20, 100, 150, 250, 10**6])
def test_every_value_of_every_tensor_is_in_one_block_of_at_most_that_size(size):
    layout = Layout.of({name: torch.zeros(n) for name, n in SIZES.items()}, False)
    counted = torch.zeros(layout.padded)
    for block in layout.blocks(size):
        assert block.columns.stop - block.columns.start <= size
        counted[block.columns] += 1
        slots = layout.slots[block.members]
        if block.within is None:
            assert block.columns == slice(slots[0].offset, slots[-1].offset + slots[-1].numel)
            assert all(4 * slot.numel < size for slot in slots)
        else:
            (slot,) = slots
            assert block.columns == slice(slot.offset + block.within.start, slot.offset + block.within.stop)
    assert counted.max() == 1
    assert all((slot.view(counted) == 1).all() for slot in layout.slots)
    assert layout.blocks(size)[0].columns.start == 0


def test_small_tensors_are_together_and_large_ones_by_themselves():
    layout = Layout.of({name: torch.zeros(n) for name, n in SIZES.items()}, False)
    assert [layout.slots[b.members] for b in layout.blocks(300)] == [
        layout.slots[:3],
        layout.slots[3:4],
        layout.slots[4:],
    ]


def test_a_tensor_in_the_order_of_the_vector_is_flattened_without_a_copy():
    shape = torch.Size((4, 3, 2, 2))
    values = torch.arange(48.0).reshape(shape)
    last = values.contiguous(memory_format=torch.channels_last)
    for channels_last, fits, other in ((False, values, last), (True, last, values)):
        (slot,) = Layout.of({"conv": values}, channels_last).slots
        flat = slot.flattened(fits)
        assert flat.data_ptr() == fits.data_ptr()
        native = torch.zeros(48)
        slot.view(native).copy_(values)
        assert torch.equal(flat, native)
        assert slot.flattened(other) is None
