"""Sites in workers: what one process gives, bit for bit; a worker that dies; what a site carries."""

import json
import os
import signal

import pytest

from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import prepare
from medfl.pipeline.run import run
from tests.tiny import tiny

METHODS = {
    "fedavg": [],
    "ecgr": ["ecgr"],
    "scaffold": ["scaffold"],
    "fedbn": ["fedbn"],
    "pflalign": ["pflalign"],
}


def rounds(folder):
    return (folder / "rounds.jsonl").read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_workers_change_no_bit(method, tmp_path):
    results = []
    for workers in (1, 2):
        pipeline = load_pipeline(tiny(method=METHODS[method], training={"workers": workers, "local_steps": 2}))
        outcome = run(pipeline, tmp_path / str(workers))
        results.append((rounds(outcome.folder.path), outcome.folder.model.read_bytes(), outcome.summary["sites"]))
    assert results[0] == results[1]
