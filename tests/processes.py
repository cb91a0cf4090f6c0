"""Processes that a test begins, and stops where it likes."""

from __future__ import annotations

import signal
import time
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch


def quick_processes() -> BaseContext:
    """Where processes come from: a fork has all that this process has imported, which takes a new one many seconds.
    PyTorch trains in no fork of a process that has a GPU."""
    return get_context("spawn" if torch.cuda.is_available() else "fork")


def killed_after_a_round(target: Any, pipeline: Any, out: Path) -> None:
    """Carry out a pipeline in a process, and kill that outright once it has a checkpoint."""
    process = quick_processes().Process(target=target, args=(pipeline, out))
    process.start()
    deadline = time.monotonic() + 120
    while not (out / "checkpoint" / "state.json").exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
