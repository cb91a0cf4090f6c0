"""Where tensors lie in flat vectors."""

import pytest
import torch

from medfl.model.layout import Layout


@pytest.mark.parametrize("size", [1, 20, 100, 150, 10**6])
def test_blocks_are_neighbours_that_make_up_the_vector(size):
    layout = Layout.of({name: torch.zeros(n) for name, n in {"a": 3, "b": 50, "c": 16, "d": 90}.items()}, False)
    blocks = layout.blocks(size)
    assert [columns.start for columns, _ in blocks] == [0, *(columns.stop for columns, _ in blocks[:-1])]
    assert blocks[-1][0].stop == layout.padded
    assert [slot for _, members in blocks for slot in layout.slots[members]] == list(layout.slots)
    for columns, members in blocks:
        slots = layout.slots[members]
        assert slots[0].offset == columns.start
        assert len(slots) == 1 or slots[-1].offset + slots[-1].numel - columns.start <= size
