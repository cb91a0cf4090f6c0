"""Processes that a test begins, and stops where it likes."""

from __future__ import annotations

from multiprocessing import get_context
from multiprocessing.context import BaseContext

import torch


def quick_processes() -> BaseContext:
    """Where processes come from: a fork has all that this process has imported, which takes a new one many seconds.
    PyTorch trains in no fork of a process that has a GPU."""
    return get_context("spawn" if torch.cuda.is_available() else "fork")
