"""Vectors in files are the vectors in memory."""

import errno
import os

import pytest
import torch

from medfl.errors import MedflError
from medfl.model import allocator, disk_vector
from medfl.model.disk_vector import copied, on_disk
from tests.toys import toy_bench


def test_a_copy_is_a_files_where_it_is_large(monkeypatch, tmp_path):
    monkeypatch.setattr(disk_vector, "LARGE", 4000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = []
    monkeypatch.setattr(
        disk_vector, "nameless", lambda *facts, old=disk_vector.nameless: made.append(facts) or old(*facts)
    )
    for dtype in (torch.float32, torch.bfloat16, torch.bool, torch.uint8, torch.int64):
        for values in (4000 // dtype.itemsize, 4000 // dtype.itemsize + 1):
            vector = torch.arange(values).remainder(7).to(dtype)
            copy = copied(vector)
            assert torch.equal(copy, vector)
            assert copy.dtype == dtype
            assert copy.data_ptr() != vector.data_ptr()
            assert copy.data_ptr() % 64 == 0  # sums depend on where a vector begins
    assert len(made) == 5
    half = torch.arange(2000).to(torch.bfloat16)  # as large as the limit, and the copy larger
    assert torch.equal(copied(half, torch.float32), half.float())
    assert len(made) == 6
    assert not list(tmp_path.iterdir())


def test_a_network_whose_values_rest_in_a_file_is_the_network(monkeypatch):
    monkeypatch.setattr(disk_vector, "LARGE", 0)
    held = []
    monkeypatch.setattr(allocator, "return_freed", lambda: held.append(1))
    bench = toy_bench()
    before, place = bench.model.weights(), bench.model.vector.data_ptr()
    bench.model.rest_on_disk()
    bench.model.check()
    assert held
    assert bench.model.vector.data_ptr() != place
    assert torch.equal(bench.model.weights(), before)
    bench.model.load(before + 1, bench.model.buffers())
    assert torch.equal(bench.model.weights(), before + 1)


def test_a_full_disk_is_one_sentence(monkeypatch):
    def full(file, begin, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MedflError, match=r"a large vector takes 0 MB .* \(No space left on device\); set TMPDIR"):
        on_disk(torch.zeros(1000))
    monkeypatch.setattr(disk_vector, "LARGE", 0)
    assert torch.equal(copied(torch.ones(1000)), torch.ones(1000))  # then in memory
