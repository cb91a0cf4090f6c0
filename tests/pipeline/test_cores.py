"""What a run uses of a machine's cores, and what is said of it."""

import os

import pytest

from medfl.pipeline.cores import cores_of, worker_device
from medfl.pipeline.load_pipeline import load_pipeline
from tests.tiny import tiny


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def shared(gpus=0, baseline=None, **training):
    cores = cores_of(load_pipeline(tiny(baseline=baseline, training={"threads": None} | training)), gpus)
    return cores.threads, cores.workers


def test_threads_and_workers(four_cores, monkeypatch):
    assert shared() == (4, 1)
    assert shared(workers=2) == (1, 2)
    assert shared(workers="auto") == (1, 3)  # there are three sites to train
    assert shared(workers="auto", threads=2) == (2, 2)
    assert shared(workers="auto", gpus=1) == (1, 1)
    assert shared(workers="auto", baseline="centralised") == (1, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert shared() == (2, 1)
    assert shared(workers=2) == (1, 2)


def test_more_threads_than_cores_are_told(four_cores):
    cores = cores_of(load_pipeline(tiny(training={"threads": 2, "workers": 2})))
    assert cores.sentences() == ("Cores: 4; 2 workers of 2 threads each; idle threads: OMP_WAIT_POLICY=passive",)
    said, warning = cores.sentences(jobs=3)
    assert said == "Cores: 4; 3 runs at a time, 2 workers of 2 threads each; idle threads: OMP_WAIT_POLICY=passive"
    assert "12 threads share 4 cores" in warning
    assert "lower `--jobs`" in warning


def test_workers_take_the_gpus_in_turn():
    assert [worker_device("auto", worker, 2) for worker in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert worker_device("cuda", 3, 4) == "cuda:3"
    assert worker_device("cuda:1", 0, 4) == "cuda:1"  # one that is named is meant
    assert worker_device("auto", 1, 1) == worker_device("auto", 1, 0) == "auto"
