"""Vectors of a run on a disk, as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medfl.data.atomic_file import flush, replacing
from medfl.errors import MedflError
from medfl.model.weights_file import check_finite


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a file where none of its name is looked for yet, and have the disk hold it. Raises OSError,
    SafetensorError."""
    save_file(_separate(tensors), path)
    flush(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a file whole, in the place of what is there. Raises OSError, SafetensorError."""
    with replacing(path) as staged:
        save_file(_separate(tensors), staged, metadata=metadata)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, at addresses as round as those of fresh ones: sums over a vector depend on where it
    begins. Raises OSError, SafetensorError."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a model.safetensors. Raises MedflError when the file is missing, damaged, or not finite."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise MedflError(f"{path} is not a readable safetensors file: {error}") from None
    check_finite(tensors, f"the weights in {path}")
    return tensors


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors of which no two share memory: what a method keeps unchanged at a site is one tensor in its
    state and in the pending one."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    first: dict[int, str] = {}
    for name, tensor in whole.items():
        if first.setdefault(tensor.data_ptr(), name) != name:
            whole[name] = tensor.clone()
    return whole
