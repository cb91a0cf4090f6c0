"""`medfl resume RUN --rounds N`: the run that was planned for N from the start, or a sentence."""

import pytest
import torch

from medfl.errors import MedflError
from medfl.federation.server_state import ServerState
from medfl.methods.core.chain import build_chain
from medfl.pipeline import extend_run
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import resume, run
from medfl.runs.folder import RunFolder
from tests.pipeline.test_run import same_result
from tests.runfolders import FakeRun
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    select = {"metric": "val_mean_auroc", "mode": "max"}
    return write_tiny(tmp_path_factory.mktemp("p"), method=["scaffold"], select=select, training={"rounds": 1})


@pytest.fixture(scope="module")
def longer(small, tmp_path_factory):
    """The run of two rounds from the start."""
    return run(load_pipeline(small, ["training.rounds=2"]), tmp_path_factory.mktemp("runs") / "run").folder


def test_a_finished_run_goes_on_as_if_planned_so(small, longer, tmp_path, monkeypatch):
    folder = run(load_pipeline(small), tmp_path / "run").folder
    before = folder.summary.read_bytes()
    monkeypatch.setattr(extend_run.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        resume(folder.path, rounds=2)  # stopped before anything is moved
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:  # and once the checkpoint is the new one, the pipeline not
        patch.setattr(RunFolder, "truncate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            resume(folder.path, rounds=2)
    with pytest.raises(MedflError, match=r"`training.rounds` was 2 and is now 1"):
        resume(folder.path)
    outcome = resume(folder.path, rounds=2)
    same_result(outcome.folder, longer)
    assert (folder.path / "earlier" / "round-1" / "summary.json").read_bytes() == before
    assert outcome.summary["rounds"] == 2
    assert folder.read_summary()["selected_round"] == longer.read_summary()["selected_round"]
    assert load_pipeline(folder.pipeline).training.rounds == 2
    with pytest.raises(MedflError, match="has trained 2 rounds already"):
        resume(folder.path, rounds=2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": {"name": "cosine"}}, "planned for 1 rounds"),
        ({"dp_sgd": {"epsilon": 8}}, "`training.dp_sgd` lasts for 1 rounds; begin a new run"),
        ({}, "at least one round"),
    ],
)
def test_what_the_pipeline_forbids(tmp_path, changes, words):
    pipeline = load_pipeline(write_tiny(tmp_path, training={"rounds": 1, **changes}))
    with pytest.raises(MedflError, match=words):
        extend_run.extended(RunFolder(tmp_path), pipeline, 0 if not changes else 5)


@pytest.mark.parametrize(("method", "words"), [("lips", "how many rounds there are"), ("fedbuff", "does not wait")])
def test_methods_that_cannot_go_on(method, words):
    with pytest.raises(MedflError, match=words):
        extend_run.check_chain(build_chain([method]), 20, 5)


def test_a_choice_that_a_longer_run_would_not_make_is_refused(tmp_path):
    fake = FakeRun(tmp_path / "run").whole()
    pipeline = load_pipeline(write_tiny(tmp_path, training={"rounds": 9, "evaluate_every": 2}))
    weights = torch.zeros(1)
    state = ServerState(fake.rounds + 1, weights, weights, best=(fake.rounds, 0.9, weights, weights))
    with pytest.raises(MedflError, match="was chosen"):
        extend_run.reopen(RunFolder(fake.folder), pipeline, state)
