"""Values that pass between two processes of one machine: vectors through shared memory, the rest as bytes.

A block of shared memory has no name, so nothing is left of it when its last process has gone, however it went. Its
number passes with the message that speaks of it; vectors in it begin at round addresses, as those of fresh ones do,
since sums over a vector depend on where it begins.
"""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import torch
from torch import Tensor

ROUND = 64  # bytes
DESCRIPTORS = "/dev/fd"


@dataclass(frozen=True)
class Span:
    """Where a tensor is in a block: its first byte, type and shape."""

    begin: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The byte behind its last one."""
        return self.begin + self.dtype.itemsize * torch.Size(self.shape).numel()

    def of(self, block: Tensor) -> Tensor:
        """The tensor, a view of the block u8[n]."""
        return block[self.begin : self.end].view(self.dtype).view(self.shape)


class Block:
    """Tensors copied into shared memory, to be sent any number of times.

    Args:
        tensors: of any types, on any device.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.places: list[Span] = []
        end = 0
        for tensor in tensors:
            place = Span(-(-end // ROUND) * ROUND, tensor.dtype, tuple(tensor.shape))
            self.places.append(place)
            end = place.end
        self.size = max(end, 1)
        self.file = _nameless_file()
        os.ftruncate(self.file, self.size)
        memory = _mapped(self.file, self.size)
        for place, tensor in zip(self.places, tensors, strict=True):
            place.of(memory).copy_(tensor)

    def __del__(self) -> None:
        """Let it go; who has received it keeps it as long as the tensors in it are used."""
        os.close(self.file)


def send(line: Connection, value: object, block: Block | None = None) -> None:
    """Send a value whose tensors were taken out by `taken_apart`, and the block that they are in."""
    size, places = (0, []) if block is None else (block.size, block.places)
    line.send((value, size, places))
    if block is not None:
        send_handle(line, block.file, None)


def receive(line: Connection) -> tuple[Any, list[Tensor]]:
    """What was sent: the value, and the tensors of its block. Raises EOFError and OSError where nobody is there."""
    value, size, places = line.recv()
    if not size:
        return value, []
    file = recv_handle(line)
    try:
        memory = _mapped(file, size)
    finally:
        os.close(file)
    return value, [place.of(memory) for place in places]


def taken_apart(value: object) -> tuple[bytes, list[Tensor]]:
    """A value as bytes, and the tensors that are anywhere in it; `put_together` makes one of both again."""
    stream, tensors = io.BytesIO(), list[Tensor]()
    _Pickler(stream, tensors).dump(value)
    return stream.getvalue(), tensors


def put_together(data: bytes, tensors: Sequence[Tensor]) -> Any:
    """The value that `taken_apart` was given, over these tensors."""
    return _Unpickler(io.BytesIO(data), tensors).load()


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors = tensors
        self.place_of: dict[int, int] = {}

    def persistent_id(self, value: object) -> int | None:
        """The number of a tensor among those that are taken out; one that is there twice is taken once."""
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self.place_of:
            self.place_of[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return self.place_of[id(value)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, tensors: Sequence[Tensor]) -> None:
        super().__init__(stream)
        self.tensors = tensors

    def persistent_load(self, number: Any) -> Tensor:
        """The tensor of a number."""
        tensor: Tensor = self.tensors[number]
        return tensor


def _nameless_file() -> int:
    """A file in memory where the system has such, else one on the disk; it has no name, and goes when it is closed."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("medfl")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _mapped(file: int, size: int) -> Tensor:
    """u8[size] over an open file, shared; it needs the file no longer."""
    memory: Tensor = torch.from_file(f"{DESCRIPTORS}/{file}", shared=True, size=size, dtype=torch.uint8)
    return memory
