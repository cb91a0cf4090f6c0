"""A run whose engine ends before it does goes on by itself, a bounded number of times, and comes out the same."""

import threading
from contextlib import contextmanager

import pytest
import yaml

from medfl.engines.nvflare import launch
from medfl.engines.nvflare.run_kit import Newcomers
from medfl.engines.nvflare.run_layout import lay_out
from medfl.engines.nvflare.session import RunningEngine
from medfl.engines.remote.audit_log import entries, verify
from medfl.engines.remote.remote_transport import Stopped
from medfl.errors import RunFailed
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from medfl.runs.progress import ProgressCallbacks
from tests.engines.remote.test_endpoints import SMALL, same_result, spoken

ROUNDS = 4


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """(pipeline, its run in one process)."""
    folder = tmp_path_factory.mktemp("going")
    training = SMALL["training"] | {"rounds": ROUNDS}
    (folder / "small.yaml").write_text(yaml.safe_dump({**SMALL, "training": training}))
    pipeline = load_pipeline(folder / "small.yaml")
    return pipeline, run(pipeline, folder / "here").folder


@pytest.fixture
def carried_out(planned, tmp_path, monkeypatch):
    """Carry the run out over endpoints of this process, each attempt with new ones, as killed processes would have."""

    def carry_out(*kills, tries=launch.TRIES, newcomers=(), present=None):
        laid, said = lay_out(planned[0], "simulator", tmp_path / "far"), []
        attempts = iter(range(100))

        @contextmanager
        def engine(laid, crew, watcher, wait):
            number, calls, ended = next(attempts), [0], threading.Event()
            kill = kills[number] if number < len(kills) else None

            def ask(site, message, plain):
                calls[0] += 1
                if ended.is_set() or (kill is not None and calls[0] >= kill):
                    raise Stopped
                return plain(site, message)

            here = present[min(number, len(present) - 1)] if present else None
            thread = threading.Thread(target=lambda: spoken(laid, ask, here))
            thread.start()
            late = iter(newcomers if number == 0 else ())
            try:
                yield RunningEngine(lambda: None, lambda: next(late, None))
            finally:
                ended.set()
                thread.join()

        monkeypatch.setattr(launch, "_engine", engine)
        monkeypatch.setattr(launch, "POLL", 0.01)
        launch._carry_out(laid, ProgressCallbacks(said.append), None, tries=tries)
        return laid, said

    return carry_out


def going_on(laid):
    return [entry["facts"] for entry in entries(laid.server / "audit.jsonl") if entry["event"] == "goes on"]


def test_a_site_killed_twice_costs_no_bit_and_both_are_on_record(planned, carried_out):
    laid, said = carried_out(5, 4)
    same_result(planned[1], laid.folder)
    assert verify(laid.server / "audit.jsonl").problems == []
    noted = going_on(laid)
    assert len(noted) == 2
    assert noted[0]["round"] < noted[1]["round"]
    assert all("ended" in fact["reason"] for fact in noted)
    assert sum("going on by itself" in line for line in said) == 2


def test_tries_without_a_new_round_are_bounded(planned, carried_out):
    with pytest.raises(RunFailed, match=r"every finished round is kept\. Continue with `medfl resume"):
        carried_out(*[1] * 10, tries=2)


def test_where_nobody_asked_for_tries_a_person_decides(planned, carried_out):
    with pytest.raises(RunFailed, match="Continue with `medfl resume"):
        carried_out(5, tries=0)


def test_a_site_that_comes_late_takes_part_from_the_next_round(planned, carried_out):
    laid, _ = carried_out(newcomers=["site-02 has come"], present=[["site-01", "held-out-01"], None])
    missed = [[f["site"] for f in record["failures"]] for record in laid.folder.records()]
    assert missed[0] == ["site-02"]
    assert missed[-1] == []
    (noted,) = going_on(laid)
    assert (noted["reason"], noted["left"]) == ("site-02 has come", launch.TRIES)
    assert noted["round"] == sum(bool(names) for names in missed)


def test_late_sites_are_looked_for_now_and_then_and_named(monkeypatch):
    monkeypatch.setattr("medfl.engines.nvflare.run_kit.LOOK", 0.0)
    here = ["a", "c", "stranger"]
    assert Newcomers(lambda: here, {"b", "c"})() == "c has come, and takes part from the next round"
    assert Newcomers(lambda: here, {"b"})() is None
    assert Newcomers(lambda: 1 / 0, {"b"})() is None
    monkeypatch.setattr("medfl.engines.nvflare.run_kit.LOOK", 1000.0)
    assert Newcomers(lambda: here, {"c"})() is None
