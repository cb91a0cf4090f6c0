"""Files of a run folder: tensors."""

import torch
from safetensors.torch import load_file

from medfl.runs.folder import save_tensors


def test_a_tensor_under_two_names_is_written_twice(tmp_path):
    """As what a site's method keeps unchanged is: in its state, and in the one that waits for the server."""
    kept, moved = torch.arange(6.0), torch.arange(6.0).view(2, 3).T
    save_tensors({"state.x": kept, "pending.x": kept, "moved": moved, "empty": torch.zeros(0)}, tmp_path / "t")
    read = load_file(tmp_path / "t")
    assert torch.equal(read["state.x"], kept)
    assert torch.equal(read["pending.x"], kept)
    assert torch.equal(read["moved"], moved)
