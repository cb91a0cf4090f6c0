"""Files of tensors: what is written is what is read."""

import pytest
import torch
from safetensors.torch import load_file

from medfl.errors import MedflError
from medfl.runs.tensor_files import load_weights, save_tensors


def test_a_tensor_under_two_names_is_written_twice(tmp_path):
    """As what a site's method keeps unchanged is: in its state, and in the one that waits for the server."""
    kept, moved = torch.arange(6.0), torch.arange(6.0).view(2, 3).T
    save_tensors({"state.x": kept, "pending.x": kept, "moved": moved, "empty": torch.zeros(0)}, tmp_path / "t")
    read = load_file(tmp_path / "t")
    assert torch.equal(read["state.x"], kept)
    assert torch.equal(read["pending.x"], kept)
    assert torch.equal(read["moved"], moved)


def test_weights_that_are_not_finite_are_no_model(tmp_path):
    save_tensors({"fc.weight": torch.tensor([1.0, float("nan")])}, tmp_path / "model.safetensors")
    with pytest.raises(MedflError, match=r"model\.safetensors have values that are not finite .*fc\.weight"):
        load_weights(tmp_path / "model.safetensors")
