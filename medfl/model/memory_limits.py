"""Working buffers that are too large, refused with the name of the buffer and of the setting that makes it smaller."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from medfl.errors import MedflError
from medfl.model import allocator

CGROUP = Path("/sys/fs/cgroup")


class OutOfMemory(MedflError):
    """A buffer does not fit. The message names it, its size and what to change; exit code 1."""

    exit_code = 1


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None where the system does not tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return None if device.type != "cpu" else min((n for n in (_available(), _left()) if n is not None), default=None)


def _available() -> int | None:
    """What Linux holds to be available without swapping."""
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return None if match is None else 1024 * int(match[1])


def _left() -> int | None:
    """What a container's limit (cgroup v2) leaves; file pages that can be dropped count as free."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        dropped = re.search(r"^inactive_file (\d+)", (CGROUP / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + int(dropped[1] if dropped else 0))


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes are free on a device, as far as the system tells."""
    free = free_bytes(device)
    if free is not None and size > free and device.type == "cpu":
        allocator.trim()  # what this process has freed and kept
        free = free_bytes(device)
    return free is None or size <= free


def allocate(
    shape: tuple[int, ...],
    device: torch.device,
    name: str,
    remedy: str,
    dtype: torch.dtype = torch.float32,
    pinned: bool = False,
) -> Tensor:
    """An uninitialised tensor. Memory is asked for first: a system that overcommits would kill the process later.

    Args:
        name: what the buffer is, for people.
        remedy: which setting to change.
        pinned: page-locked, for copies from and to a GPU.

    Raises:
        OutOfMemory: it does not fit.
    """
    size = dtype.itemsize * torch.Size(shape).numel()
    try:
        if fits(size, device):
            return torch.empty(shape, dtype=dtype, device=device, pin_memory=pinned)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    free = free_bytes(device)
    left = "" if free is None else f" and {human(free)} are free"
    raise OutOfMemory(f"{name} needs {human(size)} of {place(device)} memory{left}; {remedy}")


@contextlib.contextmanager
def explained(what: str, device: torch.device, remedy: str) -> Iterator[None]:
    """Turn an allocator's error inside into OutOfMemory: `what` ran out, how much it asked for, the remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"{what} ran out of {place(device)} memory when it asked for {asked_for(error)}; {remedy}"
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch or Python says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def asked_for(error: BaseException) -> str:
    """The size that an allocator could not give, from its message; "more" where that does not say."""
    match = re.search(r"allocate ([\d.]+ [KMG]iB)", str(error)) or re.search(r"allocate (\d+) bytes", str(error))
    return "more" if match is None else human(int(match[1])) if match[1].isdigit() else match[1]


def place(device: torch.device) -> str:
    """Whose memory it is."""
    return "host" if device.type == "cpu" else "GPU"


def human(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
