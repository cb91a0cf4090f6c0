"""What is said when memory runs out, and that a run survives it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medfl.model.memory_limits import OutOfMemory, allocate, asked_for, explained, fits, free_bytes
from tests.toys import toy_bench, toy_federation, toy_sites

CPU = torch.device("cpu")


def test_a_buffer_that_does_not_fit(monkeypatch):
    monkeypatch.setattr("medfl.model.memory_limits.free_bytes", lambda device: 10**9)
    assert allocate((1000, 1000), CPU, "a", "b").shape == (1000, 1000)
    assert not fits(2 * 10**9, CPU)
    with pytest.raises(OutOfMemory) as caught:
        allocate((1000, 1000, 1000), CPU, "the record", "set `x`")
    assert str(caught.value) == "the record needs 4.0 GB of host memory and 1.0 GB are free; set `x`"


def test_free_memory_is_what_the_machine_or_its_container_has(monkeypatch, tmp_path):
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = int(next(line.split()[1] for line in lines if line.startswith("MemTotal"))) * 1024
    assert 0 < free_bytes(CPU) <= total
    monkeypatch.setattr("medfl.model.memory_limits.CGROUP", tmp_path)
    for name, text in {
        "memory.max": "1000000",
        "memory.current": "900000",
        "memory.stat": "inactive_file 50000",
    }.items():
        (tmp_path / name).write_text(text + "\n")
    assert free_bytes(CPU) == 150_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 10**6


LIMITED = """
import resource, torch
from medfl.model.memory_limits import explained, allocate, OutOfMemory
import medfl.model.memory_limits
medfl.model.memory_limits.free_bytes = lambda device: None
cpu = torch.device("cpu")
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28))
for ask in (lambda: allocate((2**29,), cpu, "the record", "set `x`"), lambda: torch.empty(2**29)):
    try:
        with explained("training", cpu, "lower `training.batch_size`"):
            ask()
    except OutOfMemory as error:
        print(error)
"""


def test_a_real_allocation_that_fails():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == [
        "the record needs 2.1 GB of host memory; set `x`",
        "training ran out of host memory when it asked for 2.1 GB; lower `training.batch_size`",
    ]


def test_what_a_gpu_says():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a capacity of 8 GiB")
    assert asked_for(error) == "2.50 GiB"
    said = r"^training ran out of GPU memory when it asked for 2\.50 GiB; lower `b`$"
    with pytest.raises(OutOfMemory, match=said), explained("training", torch.device("cuda"), "lower `b`"):
        raise error
    with pytest.raises(RuntimeError, match="shape"), explained("training", CPU, "lower `b`"):
        raise RuntimeError("shape mismatch")


def test_a_site_that_runs_out_is_a_named_failure_and_leaves_no_trace(monkeypatch):
    """One site cannot take its step; the others' updates are those of a run without it."""

    def run(broken: str) -> tuple[torch.Tensor, list]:
        bench = toy_bench()
        sites = toy_sites(bench)
        if broken == "out":
            patches = sites["site-1"].batches
            plain = patches.training

            def training(order, seed):
                for count, batch in enumerate(plain(order, seed)):
                    if count == 1:
                        bench.model.parameters[0].grad = torch.ones_like(bench.model.parameters[0])
                        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
                    yield batch

            patches.training = training
        if broken == "away":
            sites["site-1"].handle = lambda request: (_ for _ in ()).throw(ValueError("away"))
        federation, records = toy_federation(bench, sites, rounds=2)
        return federation.run().weights, records

    weights, records = run("out")
    reason = records[0]["failures"][0]["reason"]
    assert records[0]["failures"][0]["site"] == "site-1"
    assert reason == (
        "training with batches of 8 patches of 32 px ran out of host memory when it asked for 2.50 GiB; "
        "lower `training.batch_size`"
    )
    assert torch.equal(weights, run("away")[0])
