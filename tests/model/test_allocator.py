"""Freed memory: kept where a network trains, returned where none does."""

import os
import platform
import subprocess
import sys

import pytest

from medfl.model import allocator

FAULTS = """
import ctypes, resource, sys
from medfl.model import allocator
getattr(allocator, sys.argv[1])()
import torch

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    blocks = [torch.zeros(2 << 20) for _ in range(8)]  # 8 MiB each, as of activations
    del blocks

for _ in range(3):
    step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""


def faults(setting, **said):
    env = {name: value for name, value in os.environ.items() if name not in allocator.VARIABLES} | said
    done = subprocess.run([sys.executable, "-c", FAULTS, setting], capture_output=True, text=True, check=True, env=env)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_what_a_step_freed_is_there_for_the_next():
    """Ten steps of 64 MiB are 163,840 pages of 4 KiB (fewer where the system gives larger ones)."""
    assert faults("keep_freed") < 500
    assert faults("return_freed") > 5000
    assert faults("keep_freed", MALLOC_TRIM_THRESHOLD_="131072") > 5000  # as the user has said


def test_where_the_c_library_has_no_such_settings_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    allocator.keep_freed()
    allocator.return_freed()
