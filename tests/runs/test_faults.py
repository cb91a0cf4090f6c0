"""Bad days of a run in one process: killed between two renames or in a call to MLflow, no room, MLflow or a site away.

Proved elsewhere and not again: a run stopped or killed between rounds and a torn last line (test_run), an error of the
background writer and a full disk while the server's tensors are written (test_background), answers of MLflow that are
lost and a server that never answers (test_tracking), a message that fails in a round (test_federation).
"""

import contextlib
import errno
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from medfl.cli import app
from medfl.errors import MedflError
from medfl.messages import TrainRequest
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import resume, run
from medfl.runs import checkpoint, folder, tensor_files
from medfl.runs.folder import RunFolder
from medfl.site.site import Site
from medfl.tracking.background_sync import Mirror
from medfl.tracking.sync import sync
from tests.pipeline.test_run import same_result
from tests.runfolders import FakeRun, tracking
from tests.tiny import write_tiny
from tests.toys import toy_bench, toy_federation, toy_sites
from tests.tracking.test_sync import assert_complete

ROUNDS = 2


class Killed(BaseException):
    """The process ends here: nothing after it is carried out."""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("pipelines"), method=["scaffold", "ecgr"], training={"rounds": ROUNDS})


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    return run(load_pipeline(small), tmp_path_factory.mktemp("runs") / "run").folder


class Toy:
    """A toy federation that writes its checkpoints, and the weights after each round."""

    def __init__(self, folder: Path) -> None:
        bench = toy_bench(["scaffold"])
        self.sites = toy_sites(bench)
        self.federation, _ = toy_federation(bench, self.sites, rounds=4)
        self.folder = RunFolder.create("x", folder)
        self.weights = [self.federation.state.weights.clone()]

    def play(self) -> None:
        record = self.federation.run_round()
        self.weights.append(self.federation.state.weights.clone())
        memories = [site.memory() for site in self.sites.values()]
        self.folder.save_round(record, {}, self.federation.state.snapshot(), memories, {})

    def kept(self) -> int:
        """The round of the checkpoint, whose weights must be those of that round."""
        state, _ = self.folder.load_checkpoint(self.sites)
        assert torch.equal(state.weights, self.weights[state.round])
        return state.round


def killed_at(patch, call: int) -> None:
    """Be killed at the given rename or removal of a folder: before a rename, or with a removal half done."""
    calls = iter(range(100))
    rename, remove = Path.rename, shutil.rmtree

    def renaming(path, target):
        if next(calls) == call:
            raise Killed
        return rename(path, target)

    def removing(path, ignore_errors=False):
        if next(calls) == call:
            (Path(path) / "state.json").unlink(missing_ok=True)
            raise Killed
        remove(path, ignore_errors=ignore_errors)

    patch.setattr(Path, "rename", renaming)
    patch.setattr(checkpoint.shutil, "rmtree", removing)


TWICE = [(0, 0), (1, 1), (2, 2), (4, 1), *((3, second) for second in range(4))]


@pytest.mark.parametrize(("first", "second"), TWICE)
def test_killed_twice_while_the_checkpoint_is_replaced(tmp_path, monkeypatch, first, second):
    """The steps are: remove staged, remove old, rename, rename, remove old; 3 leaves the one moved aside alone."""
    toy = Toy(tmp_path / "run")
    toy.play()
    for step in (first, second):
        before = toy.kept()
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            killed_at(patch, step)
            toy.play()
        assert toy.kept() >= before
    toy.play()
    assert toy.kept() == 4
    assert {path.name for path in toy.folder.path.glob("checkpoint*")} == {"checkpoint"}


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("what", ["fsync", "write_text", "save_model", "save_summary"])
def test_no_room_is_one_sentence_and_the_run_goes_on_from_it(small, finished, tmp_path, monkeypatch, what):
    """In the second round: the record, or state.json; at the end: the model, or the summary."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        strike(patch, what)
        with pytest.raises(MedflError, match=r"cannot be written.*No space left.*kept.*medfl resume") as raised:
            run(load_pipeline(small), out)
    assert "\n" not in str(raised.value)
    assert RunFolder(out).load_checkpoint({})[0].round >= 1
    same_result(finished, resume(out).folder)
    assert not list(out.glob("*.tmp"))


@pytest.mark.parametrize("command", ["run", "resume"])
def test_no_room_before_the_first_round_is_one_sentence_too(small, finished, tmp_path, monkeypatch, capsys, command):
    def none(*written):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    words = {"run": ["run", str(small), "--out", str(tmp_path / "new")], "resume": ["resume", str(finished.path)]}
    monkeypatch.setattr(sys, "argv", ["medfl", *words[command]])
    first = {"run": "medfl.pipeline.run.write_text", "resume": "medfl.runs.folder_lock.FolderLock._note"}
    monkeypatch.setattr(first[command], none)
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("medfl: there is no room on the disk for ")
    assert said.endswith("give the same command again")
    assert "\n" not in said


def test_a_checkpoint_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    toy, happened = Toy(tmp_path), []
    rename = Path.rename

    def renaming(path, target):
        happened.append(f"{path.name} -> {target.name}")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renaming)
    for module in (checkpoint, tensor_files):
        monkeypatch.setattr(module, "flush", lambda path: happened.append(path.name))
    toy.play()
    first = happened.index("checkpoint.new -> checkpoint")
    assert "server.safetensors" in happened[:first]
    assert happened[first + 1] == toy.folder.path.name


def strike(patch, what: str) -> None:
    """Have the disk full from then on: as the second round's record or state, the model or the summary is written."""
    if what == "save_model":
        save_file = tensor_files.save_file
        patch.setattr(
            tensor_files,
            "save_file",
            lambda t, path, **k: full() if path.name.startswith("model.") else save_file(t, path, **k),
        )
        return
    if what == "save_summary":
        write = folder.write_text
        patch.setattr(folder, "write_text", lambda path, t: full() if path.name == "summary.json" else write(path, t))
        return
    target = os if what == "fsync" else checkpoint
    real, save_round, rounds = getattr(target, what), RunFolder.save_round, []

    def counted(self, *args):
        rounds.append(1)
        return save_round(self, *args)

    patch.setattr(RunFolder, "save_round", counted)
    patch.setattr(target, what, lambda *a: full() if len(rounds) > 1 else real(*a))


def test_killed_in_a_call_to_mlflow_and_resumed(tmp_path, monkeypatch):
    """At the second round's upload, before MLflow has done it and after: the next process completes it, once."""
    from mlflow.tracking import MlflowClient

    where = tracking("killed in a call")
    for after in (False, True):
        folder = FakeRun(tmp_path / f"run-{after}", held_out=["east"]).begin().play(1)
        sync(folder.folder, where)
        folder.play(1)
        real, calls = MlflowClient.log_batch, []

        def killed(client, *args, real=real, calls=calls, after=after, **kwargs):
            calls.append(args)
            if len(calls) == 2:
                if after:
                    real(client, *args, **kwargs)
                raise Killed
            return real(client, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", killed)
            patch.setattr("medfl.tracking.sync_state.State.save", unless_dying(calls))
            with pytest.raises(Killed):
                sync(folder.folder, where)
        folder.play(1)
        assert_complete(folder, sync(folder.folder, where))


def unless_dying(calls):
    """`State.save` as long as the process lives; a killed one writes nothing."""
    from medfl.tracking.sync_state import State

    real = State.save
    return lambda state: None if len(calls) >= 2 else real(state)


def test_mlflow_away_for_three_rounds_and_back(tmp_path, monkeypatch):
    """Rounds 1 to 3 find no server; what they missed is there with the first round that finds one."""
    from medfl.tracking import background_sync as mirroring

    where = tracking("away and back")
    folder = FakeRun(tmp_path / "run", rounds=6, held_out=["east"]).begin()
    seen, away = [], [False]

    def attempt(*args, **kwargs):
        seen.append(away[0])
        if away[0]:
            raise MedflError("MLflow does not answer")
        return sync(*args, **kwargs)

    monkeypatch.setattr(mirroring, "sync", attempt)
    mirror = Mirror(folder.folder, where)
    folder.play(1)
    mirror._attempt(last=False)
    away[0] = True
    for _ in range(3):
        folder.play(1)
        assert mirror._attempt(last=False) is None
    away[0] = False
    folder.play(1)
    assert_complete(folder, mirror._attempt(last=False))
    folder.play()
    assert_complete(folder, mirror.close(timeout=60))
    assert seen.count(True) == 3


def test_an_error_at_a_site_is_named_and_the_site_is_back_in_the_next_round(small, tmp_path, monkeypatch):
    real = Site.handle

    def handle(site, request):
        if site.name == "site-02" and request.round == 1 and isinstance(request, TrainRequest):
            raise OSError(5, "Input/output error", "/data/secret.png")
        return real(site, request)

    monkeypatch.setattr(Site, "handle", handle)
    outcome = run(load_pipeline(small, ["training.rounds=3"]), tmp_path / "run")
    first, second, third, _ = outcome.folder.records()
    assert [r["counted"] for r in (first, second, third)] == [True] * 3
    assert [f["site"] for f in second["failures"]] == ["site-02"]
    assert "secret" not in str(second)
    assert first["failures"] == third["failures"] == []
    assert "site-02" in third["sites"]
    assert third["sites"]["site-02"]["train_loss"] is not None
