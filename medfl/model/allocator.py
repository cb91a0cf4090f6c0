"""What the C library does with memory that is freed. Where it is not glibc it does what it always does."""

from __future__ import annotations

import contextlib
import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the numbers of these settings in glibc's malloc.h
MIB = 1 << 20
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""By any of these a user says it otherwise."""


def keep_freed() -> None:
    """Have what is freed stay with this process, up to 1 GiB, unless the user has said otherwise: for one that trains.

    Every step frees activations and gradients and allocates them anew. What has gone back to the system meanwhile comes
    back page by page, each zeroed first. Blocks beyond 32 MiB go back at once, as glibc has it too.
    """
    if not any(name in os.environ for name in VARIABLES):
        _ask("mallopt", MMAP_THRESHOLD, 32 * MIB)
        _ask("mallopt", TRIM_THRESHOLD, 1024 * MIB)


def return_freed() -> None:
    """Have what is freed go back to the system, now and from now on every large block at once: for a process that
    trains nothing. glibc learns to keep such blocks, in a heap for each thread, which can be more than is in use."""
    _ask("mallopt", MMAP_THRESHOLD, MIB)
    _ask("mallopt", TRIM_THRESHOLD, MIB)
    trim()


def trim() -> None:
    """Return what is free now."""
    _ask("malloc_trim", 0)


def _ask(function: str, *arguments: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        getattr(ctypes.CDLL(None), function)(*arguments)
