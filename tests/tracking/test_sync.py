"""MLflow as a function of the run folder: what is logged, that it is logged once, and what is never logged."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medfl import config
from medfl.errors import MedflError
from medfl.runs.records import read_run
from medfl.runs.redact import LOCAL, reason_class, scrub, scrub_text
from medfl.tracking import metric_names
from medfl.tracking import sync as syncing
from medfl.tracking.background_sync import Mirror
from medfl.tracking.connect import brief, client_for, resolve_uri, shown
from medfl.tracking.log_evaluation import log_evaluation
from medfl.tracking.sync import SyncResult, sync
from tests.runfolders import FakeRun, database, tracking


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def where(request: pytest.FixtureRequest) -> config.Tracking:
    """The shared database, an experiment of the test's own."""
    return tracking(request.node.name)


def points(run_id: str) -> dict[tuple[str, int], list[float]]:
    """(metric, step) -> values of one run, straight from the database."""
    with sqlite3.connect(database()) as db:
        rows = db.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ?", (run_id,)).fetchall()
    found: dict[tuple[str, int], list[float]] = {}
    for key, step, value in rows:
        found.setdefault((key, step), []).append(value)
    return found


def expected(run: FakeRun, site: str | None) -> dict[tuple[str, int], float]:
    """What a run should hold, from the records themselves."""
    values = {}
    for record in run.records:
        entry = record["sites"].get(site)
        at = metric_names.federation_round(record) if site is None else metric_names.site_round(entry) if entry else {}
        values |= {(key, record["round"]): value for key, value in at.items()}
    path = run.folder / "summary.json"
    if path.exists():
        summary = json.loads(path.read_text())
        drop = summary["stability"]["largest_drop_by_site"].get(site)
        final = (
            metric_names.federation_final(summary)
            if site is None
            else metric_names.site_final(summary["sites"][site], drop)
        )
        values |= {(key, 0): value for key, value in final.items()}
    return values


def assert_complete(run: FakeRun, result: SyncResult) -> None:
    """Every value is there, and there once."""
    for site, run_id in [(None, result.run_id), *result.sites.items()]:
        found = points(run_id)
        assert {point: values for point, values in found.items() if len(values) != 1} == {}
        assert {point: values[0] for point, values in found.items()} == pytest.approx(expected(run, site)), site


# --- what is logged ---------------------------------------------------------------------------------------------


def test_the_run_tree(tmp_path: Path, where: config.Tracking) -> None:
    run = FakeRun(tmp_path / "a", failing=[(1, "north", "the update is not finite in round 1")], leaky=True).whole()
    result = sync(run.folder, where)
    assert result.status == "finished"
    assert list(result.sites) == ["north", "south", "east", "west"]
    assert_complete(run, result)

    client = client_for(str(where.uri))
    parent = client.get_run(result.run_id)
    assert parent.info.run_name == "a"
    assert parent.info.status == "FINISHED"
    expected_tags = {"medfl.run": "a", "role": "federation", "method": "ecgr", "seed": "0", "medfl.leaky": "true"}
    assert expected_tags.items() <= parent.data.tags.items()
    assert parent.data.tags["medfl.failures"] == "round 1: north (not finite)"
    assert "2 training sites" in parent.data.tags["mlflow.note.content"]
    wanted = {"training.rounds": "3", "training.optimizer.lr": "0.05", "sites.train": "north, south", "data.size": "32"}
    assert wanted.items() <= parent.data.params.items()
    assert parent.data.params["data.root"] == LOCAL
    uploaded = {file.path for file in client.list_artifacts(result.run_id)}
    assert uploaded == {"pipeline.yaml", "allocation_summary.csv", "rounds.jsonl", "summary.json"}

    for site, role, context in (("north", "train", "train"), ("west", "held_out", "holdout")):
        child = client.get_run(result.sites[site])
        assert child.data.tags["mlflow.parentRunId"] == result.run_id
        assert (child.data.tags["site"], child.data.tags["role"]) == (site, role)
        assert child.data.tags["medfl.leaky"] == "true"
        assert child.info.status == "FINISHED"
        (given,) = child.inputs.dataset_inputs
        assert given.dataset.name == site
        assert given.dataset.digest == read_run(run.folder).data[site].digest
        assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", context)]


def test_a_round_in_numbers() -> None:
    """Two training sites, by hand: means leave out what is not available, the worst site is the smallest AUROC."""
    north = {"role": "train", "train_loss": 0.5, "bytes_up": 10, "bytes_down": 20}
    north["val"] = {"auroc": 0.9, "ece": 0.1, "auroc_per_class": {"a": 0.8, "b": None}, "confusion": [[1]], "n": 7}
    south = {"role": "train", "train_loss": None, "bytes_up": 30, "bytes_down": 20}
    south["val"] = {"auroc": 0.7, "ece": None, "nll": float("nan"), "auroc_per_class": {"a": 0.6, "b": 1.0}}
    east = {"role": "held_out", "test": {"auroc": 0.2}}
    record = {
        "round": 4,
        "evaluated": True,
        "failures": [{"site": "west", "reason": "x"}],
        "sites": {"north": north, "south": south, "east": east},
        "update": {"mean_sq": 8.0, "sq": 4.0, "cosine": 0.25, "inertia": {"stem": 0.1}},
    }
    assert metric_names.federation_round(record) == pytest.approx(
        {
            "curves/val_auroc": 0.8,
            "curves/val_auroc/a": 0.7,
            "curves/val_auroc/b": 1.0,
            "curves/val_ece": 0.1,
            "curves/train_loss": 0.5,
            "bytes_up": 20,
            "bytes_down": 20,
            "curves/val_auroc_worst_site": 0.7,
            "stability/mean_auroc": 0.8,
            "stability/worst_auroc": 0.7,
            "stability/site_spread": 0.1,
            "stability/drift": 1.0,  # sqrt((8 - 4) / 4)
            "stability/coherence": 0.5,  # 4 / 8
            "stability/update_cosine": 0.25,
            "failures": 1,
        }
    )
    assert metric_names.site_round(east) == {"monitoring/auroc": 0.2}
    assert metric_names.site_round(south) == {
        "curves/val_auroc": 0.7,
        "curves/val_auroc/a": 0.6,
        "curves/val_auroc/b": 1.0,
        "bytes_up": 30.0,
        "bytes_down": 20.0,
    }


def test_results_carry_their_bounds() -> None:
    entry = {
        "role": "held_out",
        "n": 40,
        "n_groups": 8,
        "auroc": 0.9,
        "auroc_ci": [0.8, 0.95],
        "ece": 0.1,
        "ece_ci": None,
    }
    assert metric_names.site_final(entry, None) == {
        "test/auroc": 0.9,
        "test/auroc_low": 0.8,
        "test/auroc_high": 0.95,
        "test/ece": 0.1,
        "test/patches": 40.0,
        "test/groups": 8.0,
    }
    assert metric_names.plain("lung aca (µ/%)") == "lung aca _____-cc07cc"


def test_held_out_sites_may_be_monitored_in_the_selected_round(tmp_path: Path, where: config.Tracking) -> None:
    run = FakeRun(tmp_path / "a", monitored=True).whole()
    result = sync(run.folder, where)
    assert_complete(run, result)
    found = points(result.sites["east"])
    assert ("monitoring/auroc", run.rounds) in found
    assert ("test/auroc", 0) in found
    assert not [key for key, _ in found if key.startswith("curves/val_")]


# --- once ---------------------------------------------------------------------------------------------------------


def test_round_by_round_with_repeats(tmp_path: Path, where: config.Tracking) -> None:
    """Mirrored after each round, each twice, interrupted and resumed: the same as in one go."""
    run = FakeRun(tmp_path / "a").begin()
    client = client_for(str(where.uri))
    for _ in range(run.rounds):
        run.play(1)
        result = sync(run.folder, where)
        assert sync(run.folder, where) == result
        assert result.status == "running"
    assert sync(run.folder, where, finished=True).run_id == result.run_id
    assert client.get_run(result.run_id).info.status == "KILLED"
    sync(run.folder, where)
    assert client.get_run(result.run_id).info.status == "RUNNING"
    run.play().finish()
    result = sync(run.folder, where, finished=True)
    again = sync(run.folder, where, finished=True)
    assert result == again
    assert client.get_run(result.run_id).info.status == "FINISHED"
    assert_complete(run, result)


def test_one_call_a_run_and_round(tmp_path: Path, where: config.Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun(tmp_path / "a", monitored=True).begin()
    sync(run.folder, where)
    calls = Calls(monkeypatch, "log_batch")
    run.play(1)
    result = sync(run.folder, where)
    assert sorted(call[0] for call in calls.seen) == sorted([result.run_id, *result.sites.values()])
    run.play(1)
    sync(run.folder, where)
    assert len(calls.seen) == 2 * 5


def test_long_batches_are_cut(tmp_path: Path, where: config.Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "METRICS_PER_CALL", 7)
    run = FakeRun(tmp_path / "a").whole()
    calls = Calls(monkeypatch, "log_batch")
    assert_complete(run, sync(run.folder, where))
    assert max(len(kwargs.get("metrics", ())) for _, kwargs in calls.kwargs) == 7


class Calls:
    """Watches one method of the MLflow client. `explode_at` makes that call fail, after it has done its work.

    A process that is killed there has not written `tracking.json` any more: `rewind` restores that moment.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, folder: Path | None = None) -> None:
        from mlflow.tracking import MlflowClient

        real: Callable[..., Any] = getattr(MlflowClient, method)
        self.seen: list[tuple[Any, ...]] = []
        self.kwargs: list[tuple[str, dict[str, Any]]] = []
        self.explode_at: int | None = None
        self.before = True
        self.state: bytes | None = None

        def watched(client: Any, *args: Any, **kwargs: Any) -> Any:
            number = len(self.seen)
            self.seen.append(args)
            self.kwargs.append((method, kwargs))
            result = real(client, *args, **kwargs)
            if number == self.explode_at:
                if folder is not None:
                    self.state = (folder / "tracking.json").read_bytes()
                raise ConnectionError("the answer was lost")
            return result

        monkeypatch.setattr(MlflowClient, method, watched)

    def rewind(self, folder: Path) -> None:
        assert self.state is not None
        (folder / "tracking.json").write_bytes(self.state)


LOST = [("log_batch", 0), ("log_batch", 2), ("log_batch", 7), ("create_run", 0), ("create_run", 2), ("log_inputs", 1)]
LOST += [("log_artifact", 2), ("create_logged_model", 0), ("finalize_logged_model", 0), ("log_outputs", 0)]
LOST_ANSWERS = [(method, number, True) for method, number in LOST]
LOST_ANSWERS += [("log_batch", 2, False), ("log_batch", 5, False)]


@pytest.mark.parametrize(("method", "number", "killed"), LOST_ANSWERS)
def test_lost_answers(
    tmp_path: Path,
    where: config.Tracking,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    number: int,
    killed: bool,
) -> None:
    """MLflow did the work, but the answer was lost, or the process died: the next sync neither doubles nor omits."""
    monkeypatch.setattr("medfl.tracking.log_model.save_model", lambda run, settings, temporary, *ids: temporary)
    run = FakeRun(tmp_path / "a", rounds=1, held_out=["east"], monitored=True).whole()  # log_batch: 1, 4 and 4 times
    calls = Calls(monkeypatch, method, run.folder)
    calls.explode_at = number
    with pytest.raises(MedflError, match=r"the answer was lost.*medfl track"):
        sync(run.folder, where)
    assert len(calls.seen) == number + 1
    if killed:
        calls.rewind(run.folder)
    result = sync(run.folder, where)
    assert_complete(run, result)
    client = client_for(str(where.uri))
    runs = client.search_runs([result.experiment_id])
    assert len(runs) == 4
    assert [len(r.inputs.dataset_inputs) for r in runs if r.info.run_id != result.run_id] == [1] * 3
    assert len(client.get_run(result.run_id).outputs.model_outputs) == 1
    assert len(client.search_logged_models([result.experiment_id])) == 1


def test_two_at_a_time(tmp_path: Path, where: config.Tracking) -> None:
    """`medfl track` beside the run's own mirror."""
    run = FakeRun(tmp_path / "a").begin().play()
    sync(run.folder, where)  # imports and database, so that the threads below do meet
    shutil.rmtree(run.folder)
    run = FakeRun(tmp_path / "a").whole()
    results: list[SyncResult] = []
    threads = [threading.Thread(target=lambda: results.append(sync(run.folder, where))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.run_id for result in results}) == 1
    assert len(results) == 3
    assert_complete(run, results[0])


def test_runs_deleted_in_mlflow_are_begun_anew(tmp_path: Path, where: config.Tracking) -> None:
    run = FakeRun(tmp_path / "a").begin().play()
    first = sync(run.folder, where)
    client = client_for(str(where.uri))
    client.delete_run(first.run_id)
    client.delete_run(first.sites["north"])
    second = sync(run.folder, where)
    assert second.run_id != first.run_id
    assert second.sites["north"] != first.sites["north"]
    assert second.sites["south"] == first.sites["south"]
    assert_complete(run, second)
    for site in second.sites.values():
        assert client.get_run(site).data.tags["mlflow.parentRunId"] == second.run_id


# --- servers that are away -----------------------------------------------------------------------------------------


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


NOWHERE = "http://127.0.0.1:9"


@pytest.mark.usefixtures("_impatient")
def test_an_unreachable_server_costs_nothing(
    tmp_path: Path, where: config.Tracking, caplog: pytest.LogCaptureFixture
) -> None:
    run = FakeRun(tmp_path / "a").begin()
    mirror = Mirror(run.folder, config.Tracking(uri=NOWHERE, experiment="x"))
    with caplog.at_level(logging.WARNING):
        for _ in range(run.rounds):
            run.play(1)
            mirror.notify()
        run.play().finish()
        result = mirror.close(timeout=60)
    assert result.status == "pending"
    assert NOWHERE in result.reason
    assert result.hint == f"medfl track {run.folder}"
    assert len([record for record in caplog.records if record.name.startswith("medfl")]) == 1
    assert mirror.seconds > 0
    assert_complete(run, sync(run.folder, where))


@pytest.mark.usefixtures("_impatient")
def test_a_run_moves_between_servers(tmp_path: Path, where: config.Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each server has its own account, and without other word the last one is taken again."""
    run = FakeRun(tmp_path / "a").begin().play(2)
    first = sync(run.folder, where)
    run.play()
    with pytest.raises(MedflError, match="does not take the run"):
        sync(run.folder, config.Tracking(uri=NOWHERE))
    assert_complete(run, sync(run.folder, where))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert sync(run.folder, config.Tracking(experiment=where.experiment)).run_id == first.run_id
    assert list(elsewhere.iterdir()) == []


def test_mirror_follows_a_run(tmp_path: Path, where: config.Tracking, capfd: pytest.CaptureFixture[str]) -> None:
    run = FakeRun(tmp_path / "a").begin()
    mirror = Mirror(run.folder, where)
    for _ in range(run.rounds):
        run.play(1)
        mirror.notify()
    run.play().finish()
    result = mirror.close(timeout=60)
    assert result.status == "finished"
    assert_complete(run, result)
    assert capfd.readouterr() == ("", "")  # not a word from MLflow, alembic or a progress bar


def test_mirror_switched_off(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "nothing", config.Tracking(enabled=False))
    mirror.notify()
    assert mirror.close() == SyncResult("off")
    assert "off" in str(mirror.close())


def test_a_mirror_alone_imports_nothing_heavy() -> None:
    code = (
        "import sys, pathlib, medfl.config as c, medfl.tracking.model_registry, medfl.tracking.log_evaluation\n"
        "from medfl.tracking.background_sync import Mirror; Mirror(pathlib.Path('x'), c.Tracking())\n"
        "print([m for m in ('mlflow', 'torch', 'cv2', 'pandas', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_which_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    here = f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_uri(config.Tracking()) == here
    assert resolve_uri(config.Tracking(), "http://recorded") == "http://recorded"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert resolve_uri(config.Tracking(), "http://recorded") == "http://environment"
    assert resolve_uri(config.Tracking(uri="sqlite:///mlflow.db"), "http://recorded") == here
    assert resolve_uri(config.Tracking(uri=here)) == here
    assert shown("https://me:secret@host/x") == "https://host/x"
    assert "secret" not in brief(OSError("no route to https://me:secret@host/x\nmore"))


def test_sentences_for_people(tmp_path: Path, where: config.Tracking) -> None:
    with pytest.raises(MedflError, match="no run folder"):
        sync(tmp_path, where)
    with pytest.raises(MedflError, match="there is no run folder"):
        sync(tmp_path / "nowhere", where)
    run = FakeRun(tmp_path / "a").begin().play(2)
    with (run.folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 2, "eval')  # being written this moment
    assert sync(run.folder, where).rounds == 2
    (run.folder / "tracking.json").write_text("{}")
    with pytest.raises(MedflError, match=r"tracking\.json is damaged"):
        sync(run.folder, where)
    (run.folder / "rounds.jsonl").write_text("{\n{}\n")
    with pytest.raises(MedflError, match=r"rounds\.jsonl, line 1"):
        sync(run.folder, where)
    (tmp_path / "file").touch()
    with pytest.raises(MedflError, match=r"tracking\.uri"):
        client_for(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_evaluations_are_logged_beside_the_rounds(tmp_path: Path, where: config.Tracking) -> None:
    run = FakeRun(tmp_path / "a").begin().play()
    (run.folder / "pipeline.yaml").write_text(json.dumps(run.pipeline() | {"tracking": where.model_dump()}))
    first = sync(run.folder, where)
    result = {"run": "a", "fingerprint": "feed", **run.summary()}
    line = log_evaluation(result, None, run.folder)
    client = client_for(str(where.uri))
    (top,) = client.search_runs([first.experiment_id], "tags.role = 'evaluation'")
    assert top.info.run_id in line
    assert top.data.tags["mlflow.parentRunId"] == first.run_id
    assert top.data.metrics["held_out/mean_auroc"] == pytest.approx(result["held_out"]["mean_auroc"])
    children = client.search_runs([first.experiment_id], f"tags.`mlflow.parentRunId` = '{top.info.run_id}'")
    assert {child.data.tags["site"] for child in children} == set(run.roles)
    assert sync(run.folder, where).sites == first.sites  # an evaluation's runs are not taken for the federation's
    assert "is run" in log_evaluation(result, "0" * 32, run.folder)  # fetched from a server that is not this one
    (run.folder / "pipeline.yaml").write_text(json.dumps(run.pipeline() | {"tracking": {"enabled": False}}))
    assert "off" in log_evaluation(result, None, run.folder)


@pytest.mark.usefixtures("_impatient")
def test_evaluations_never_fail_for_want_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    assert "not logged" in log_evaluation({"run": "a", "fingerprint": "f", "sites": {}, "held_out": {}})


# --- what is never logged -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("Lung and colon, H/E, 20/40, and/or", "Lung and colon, H/E, 20/40, and/or"),
        ("see https://doi.org/10.1000/x for it", "see https://doi.org/10.1000/x for it"),
        ("/srv/a b", f"{LOCAL} b"),
        ("from '/srv/John Smith Lee/x.png' today", f"from {LOCAL} today"),
        (r"C:\data\Mary Ann\7.tif gone", f"{LOCAL} gone"),
        ("patient7.jpeg is broken", f"{LOCAL} is broken"),
        ("~ was home", f"{LOCAL} was home"),
    ],
)
def test_paths_in_text(text: str, scrubbed: str) -> None:
    assert scrub_text(text) == scrubbed


def test_paths_in_values() -> None:
    value = {
        "data": {"root": "patches", "source_groups": "ignore", "labels": {"Adeno, John": "lung_aca"}, "size": 96},
        "classes": ["G1/G2", "n.txt"],
        "failures": [{"round": 1, "site": "north", "phase": "test", "reason": "John Smith is unreadable"}, "John"],
        "tracking": {"uri": "https://me:secret@host"},
        "backbone": "local-dir:/srv/x",
    }
    assert scrub(value) == {
        "data": {"root": LOCAL, "source_groups": "ignore", "labels": LOCAL, "size": 96},
        "classes": ["G1/G2", "n.txt"],
        "failures": [{"round": 1, "site": "north", "phase": "test", "reason": "failed"}, "failed"],
        "tracking": {"uri": LOCAL},
        "backbone": LOCAL,
    }


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("the training loss is not finite in round 3", "not finite"),
        ("FileNotFoundError at the site", "FileNotFoundError"),
        ("SmithError.png", "failed"),
        ("the update is of architecture beef, and the model's is f00d", "another architecture"),
        ("the update has length 51.2, above the limit of 5.1: 5 times the median", "unusual length"),
        ("the site timed out after 30 s", "timed out"),
        ("CUDA out of memory", "out of memory"),
        ("/srv/Smith/7.png cannot be read", "failed"),
    ],
)
def test_failures_are_told_by_their_kind(reason: str, kind: str) -> None:
    assert reason_class(reason) == kind


def test_a_run_tells_its_source_its_data_and_what_it_misses_and_its_curves_come_first(
    tmp_path: Path, where: config.Tracking
) -> None:
    run = FakeRun(tmp_path / "r", skill=0.5).whole()
    result = sync(run.folder, where, finished=True)
    client = client_for(str(where.uri))
    federation = client.get_run(result.run_id)
    tags = federation.data.tags
    assert (tags["mlflow.source.name"], bool(tags["mlflow.user"])) == ("medfl run, pipeline fake", True)
    assert tags["medfl.selected_round"] == str(run.rounds)
    assert tags["medfl.misses"].startswith("At ")
    assert {each.dataset.name for each in federation.inputs.dataset_inputs} == set(run.roles)
    # A section of charts is what stands before the last stroke, and MLflow sorts them.
    sections = sorted({key.rpartition("/")[0] for key in federation.data.metrics if "/" in key})
    assert sections[:2] == ["curves", "curves/val_auroc"]
    once = [key for key, step in points(result.run_id) if step == 0 and key.startswith("held_out/")]
    assert {"held_out/mean_auroc", "held_out/lowest_recall"} <= set(once)
