"""Sites in workers: what one process gives, bit for bit; a worker that dies; what a site carries."""

import multiprocessing
import os
import signal
import time
from contextlib import closing

import psutil
import pytest
import torch

import medfl.pipeline.prepare as prepare_module
from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import prepare
from medfl.pipeline.run import resume, run
from medfl.pipeline.workers.worker_transport import WorkerTransport, can_inherit
from medfl.testing.method_checks import Case
from medfl.testing.toy_federation import toy_run
from tests.processes import killed_after_a_round, quick_processes
from tests.tiny import tiny

CHAINS = [("scaffold", "ecgr"), ("pflalign",), ("fedbuff",)]  # state at sites, models of their own, late replies
MORE = [(), ("ecgr",), ("scaffold",), ("fedbn",), ("fedgmr",), ("feddyn",), ("moon",), ("finetune",), ("krum",)]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def workers_of(made, count=2):
    return closing(WorkerTransport(made.sites, count, 1, lambda worker: made.sites))


def in_workers(chain, rounds=3, count=2):
    made = toy_run(chain)
    with workers_of(made, count) as transport:
        made.federation.transport = transport
        made.rounds(rounds)
        assert len(transport.processes) == count
    assert not transport.processes
    return made


@pytest.mark.parametrize("method", [*CHAINS, *(pytest.param(chain, marks=pytest.mark.slow) for chain in MORE)])
def test_workers_change_no_bit(method):
    chain = build_chain(method)
    alone = toy_run(chain).rounds(3)
    case = Case(type(chain.methods[0]) if chain.methods else object, {})
    case.require_equal(alone, in_workers(chain), "in workers")


def test_a_worker_that_dies_costs_one_answer(monkeypatch):
    made, here = toy_run(build_chain(["scaffold"])), os.getpid()
    handle = made.sites["site-1"].handle

    def dying(request):
        if request.round == 1 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return handle(request)

    monkeypatch.setattr(made.sites["site-1"], "handle", dying)
    with workers_of(made) as transport:
        made.federation.transport = transport
        made.rounds(2)
        (failure,) = made.records[1]["failures"]
        assert failure["site"] == "site-1"
        assert "its worker process ended with signal 9" in failure["reason"]
        assert made.records[1]["counted"]
        assert len(transport.processes) == 1
        transport.inherit = True  # a new process takes seconds
        made.rounds(1)
        assert len(transport.processes) == 2
    lost = toy_run(build_chain(["scaffold"]), lost=[(1, "site-1")], absent=True).rounds(3)
    assert torch.equal(made.state.weights, lost.state.weights)


def test_a_worker_that_hangs_is_ended_at_its_limit(monkeypatch):
    made, here = toy_run(build_chain(["scaffold"])), os.getpid()
    handle = made.sites["site-1"].handle

    def hanging(request):
        if request.round == 1 and os.getpid() != here:
            time.sleep(600)
        return handle(request)

    monkeypatch.setattr(made.sites["site-1"], "handle", hanging)
    with workers_of(made) as transport:
        made.federation.transport = transport
        made.rounds(1)
        ask, transport.timeout = transport._ask, 60.0

        def ask_soon(worker, request):
            ask(worker, request)
            if worker.site == "site-1":
                worker.due = time.monotonic() + 0.2

        monkeypatch.setattr(transport, "_ask", ask_soon)
        made.rounds(1)
        (failure,) = made.records[1]["failures"]
        assert failure["site"] == "site-1"
        assert failure["reason"].startswith("no answer of its worker within 60 s; another worker takes its place")
        assert made.records[1]["counted"]
        (left,) = transport.processes
        transport.inherit = True  # a new process takes seconds
        monkeypatch.undo()
        made.rounds(1)
        assert {worker.number for worker in transport.processes} == {0, 1}
        assert left in transport.processes
    lost = toy_run(build_chain(["scaffold"]), lost=[(1, "site-1")], absent=True).rounds(3)
    assert torch.equal(made.state.weights, lost.state.weights)


def begin_and_wait(line):
    """Start workers, tell their ids, and let one of them hang."""
    made = toy_run(build_chain([]))
    for site in made.sites.values():
        site.handle = lambda request: time.sleep(600)
    transport = WorkerTransport(made.sites, 2, 1, lambda worker: made.sites)
    transport.start()
    line.send([worker.process.pid for worker in transport.processes])
    made.federation.transport = transport
    made.rounds(1)


def test_workers_end_by_themselves_when_the_run_is_killed():
    here, there = multiprocessing.Pipe()
    run_process = quick_processes().Process(target=begin_and_wait, args=(there,))
    run_process.start()
    workers = [psutil.Process(number) for number in here.recv()]
    run_process.kill()
    run_process.join()
    assert not psutil.wait_procs(workers, timeout=60)[1]


@pytest.mark.slow
def test_killed_with_workers_and_resumed_is_the_undisturbed_run(tmp_path):
    pipeline = load_pipeline(tiny(method=["scaffold"], training={"workers": 2, "local_steps": 2, "rounds": 3}))
    whole, out = run(pipeline, tmp_path / "whole").folder, tmp_path / "killed"
    killed_after_a_round(run, pipeline, out)
    resumed = resume(out).folder
    for name in ("rounds", "model"):
        assert getattr(resumed, name).read_bytes() == getattr(whole, name).read_bytes()


def test_each_gpu_has_a_worker(monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        prepare_module, "prepare", lambda pipeline, partition: made.append(pipeline) or toy_run(build_chain([]))
    )
    for worker in range(3):
        prepare_module.sites_anew(load_pipeline(tiny()), None, worker)
    assert [pipeline.training.device for pipeline in made] == ["cuda:0", "cuda:1", "cuda:0"]
    assert load_pipeline(tiny()).training.device == "auto"


def test_an_error_at_a_site_is_its_failure(monkeypatch):
    made = toy_run(build_chain([]))

    def broken(request):
        raise KeyError("/a/path")

    monkeypatch.setattr(made.sites["site-2"], "handle", broken)
    with workers_of(made) as transport:
        made.federation.transport = transport
        record = made.rounds(1).records[0]
    assert record["failures"] == [{"site": "site-2", "reason": "KeyError at the site"}]


def test_what_is_left_half_way_ends_its_workers():
    made = toy_run(build_chain([]))
    with workers_of(made) as transport:
        made.federation.transport = transport
        made.rounds(1)
        asked = transport.call(list(made.sites), lambda name: made.records)
        with pytest.raises(AttributeError):
            next(asked)
        assert all(not worker.site for worker in transport.processes)


def test_what_no_other_process_can_be_given_is_told():
    made = toy_run(build_chain([]))
    transport = WorkerTransport(made.sites, 2, 1, lambda worker: made.sites, inherit=False)
    with closing(transport), pytest.raises(MedflError, match=r"set `training\.workers: 1`"):
        transport.start()


def test_copies_are_for_one_thread_on_the_cpu():
    assert not can_inherit(torch.device("cpu"), 2)
    assert not can_inherit(torch.device("cuda"), 1)


def test_a_run_in_workers_is_the_run(tmp_path):
    """Stain, evaluation and the closing measurement included."""
    changes = {"method": ["fedbn"], "data": tiny()["data"] | {"normalise": "reinhard"}}
    results = {}
    for workers in (1, 2):
        pipeline = load_pipeline(tiny(**changes, training={"workers": workers, "local_steps": 2}))
        folder = run(pipeline, tmp_path / str(workers)).folder
        results[workers] = folder.rounds.read_bytes(), folder.model.read_bytes(), folder.read_summary()["sites"]
    assert results[1] == results[2]


@pytest.mark.slow
def test_new_processes_make_their_sites_anew(tmp_path):
    results = []
    for inherit in (None, False):
        pipeline = load_pipeline(tiny(method=["scaffold"], training={"workers": 1 if inherit is None else 2}))
        setup = prepare(pipeline)
        if setup.workers is not None:
            setup.workers.inherit = False
        with closing(setup):
            results.append(setup.federation(setup.initial_state()).run().weights)
    assert torch.equal(*results)
