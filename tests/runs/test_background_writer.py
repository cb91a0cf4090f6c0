"""The writer that rounds overlap: order, errors, and that what it is given does not change under it."""

import threading

import pytest
import torch

from medfl.errors import MedflError
from medfl.runs.background_writer import Background
from medfl.runs.folder import RunFolder
from tests.toys import toy_bench, toy_federation, toy_sites, toy_work


def test_a_task_runs_beside_the_caller_and_the_next_waits_for_it():
    done, gate = [], threading.Event()
    with Background() as writer:
        writer.submit(lambda: (gate.wait(10), done.append(0)))
        assert done == []
        gate.set()
        writer.submit(lambda: done.append(1))
        assert done[0] == 0
    assert done == [0, 1]


def test_an_error_reaches_the_caller_once_and_before_the_next_task():
    done = []

    def fail():
        raise MedflError("no room")

    with Background() as writer:
        writer.submit(fail)
        with pytest.raises(MedflError, match="no room"):
            writer.submit(lambda: done.append(1))
        writer.wait()
    assert done == []


def test_leaving_the_block_waits_and_an_error_of_the_body_goes_first():
    done = []
    with Background() as writer:
        writer.submit(lambda: done.append(1))
    assert done == [1]

    def fail():
        raise MedflError("no room")

    def body():
        with Background() as writer:
            writer.submit(fail)
            raise KeyError("body")

    with pytest.raises(KeyError, match="body"):
        body()
    with pytest.raises(MedflError, match="no room"), Background() as writer:
        writer.submit(fail)


HALF = {f"site-{k}": 0.5 for k in range(3)}  # for the method that cuts sub-models
METHODS = [["fedavgm"], ["fedyogi", "ecgr"], ["scaffold", "ecgr"], ["fedgmr"], ["lips"], ["fedbn"]]


@pytest.mark.parametrize("method", [*METHODS, [{"name": "pflalign"}], ["finetune"]], ids=str)
def test_a_snapshot_stays_what_it_was_while_rounds_go_on(method):
    bench = toy_bench(method)
    work = toy_work(momentum=0.0) if method == [{"name": "pflalign"}] else None
    sites = toy_sites(bench, work=work)
    federation, _ = toy_federation(bench, sites, rounds=4, densities=HALF)
    federation.run_round()
    federation.run_round()
    state, memories = federation.state.snapshot(), [site.memory() for site in sites.values()]

    def tensors():
        for name in ("weights", "buffers", "previous"):
            if getattr(state, name) is not None:
                yield getattr(state, name)
        yield from state.tensors.values()
        for memory in memories:
            yield from memory.state.values()
            yield from (memory.pending or (0, {}))[1].values()

    before, facts, accepted = [t.clone() for t in tensors()], repr(state.json_state), dict(state.accepted)
    federation.run_round()
    federation.run_round()
    assert federation.state.round == 4
    assert state.round == 2
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(), strict=True))
    assert (repr(state.json_state), state.accepted) == (facts, accepted)


def test_a_full_disk_is_one_sentence_and_the_round_before_stays(tmp_path, monkeypatch):
    bench = toy_bench()
    sites = toy_sites(bench)
    federation, _ = toy_federation(bench, sites, rounds=4)
    folder = RunFolder.create("x", tmp_path / "run")

    def save(record):
        folder.save_round(record, {}, federation.state.snapshot(), [s.memory() for s in sites.values()], {})

    save(federation.run_round())
    kept = federation.state.weights

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    record = federation.run_round()
    with monkeypatch.context() as patch:
        patch.setattr("medfl.runs.tensor_files.save_file", full)
        with pytest.raises(MedflError, match=r"after round 1 \(No space left on device\).*medfl resume"):
            save(record)
    state, _ = folder.load_checkpoint(sites)
    assert state.round == 1
    assert torch.equal(state.weights, kept)
