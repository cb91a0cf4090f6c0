"""Whole runs on a little generated tissue: the folder, repetition, interruption, own data, selection, planning."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from medfl.cli.console_tables import print_sites
from medfl.cli.dry_run import print_plan
from medfl.cli.terminal import Terminal
from medfl.data.cache_folder import private_places
from medfl.errors import MedflError, RunFailed
from medfl.messages import MeasureRequest
from medfl.pipeline.build_federation import lr_scale
from medfl.pipeline.conclude import conclude_global, select_model
from medfl.pipeline.final_evaluation import SelectedModel
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import prepare
from medfl.pipeline.register_run import register_run
from medfl.pipeline.run import resume, run
from medfl.report.run_report import report_html
from medfl.runs.folder import RunFolder
from medfl.runs.progress import ProgressCallbacks
from medfl.runs.purge import private_parts
from medfl.site.evaluator import SiteDiverged
from medfl.site.site import Site
from tests.datafiles import OWN, own_folder
from tests.processes import killed_after_a_round
from tests.tiny import WITH_BATCHNORM, write_tiny

BATCHNORM = "model={backbone: " + WITH_BATCHNORM["backbone"] + "}"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Path of the small pipeline file."""
    return write_tiny(tmp_path_factory.mktemp("pipelines"), method=["ecgr"], training={"rounds": 3})


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """Folder of the small pipeline's run."""
    return run(load_pipeline(small), tmp_path_factory.mktemp("runs") / "first").folder


def test_what_names_files_or_holds_states_is_this_users_alone(finished):
    private = [*private_parts(finished.path), *private_places(Path(os.environ["MEDFL_CACHE"]))]
    assert {"allocation.csv", "data.key", "checkpoint"} <= {path.name for path in private}
    assert [path for path in private if path.stat().st_mode & 0o077] == []


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.model)


def same_result(one: RunFolder, two: RunFolder) -> None:
    """Byte for byte the same rounds and the same weights."""
    assert one.rounds.read_bytes() == two.rounds.read_bytes()
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_folder_holds_what_the_documentation_says(finished):
    for file in (
        finished.pipeline,
        finished.allocation,
        finished.allocation_summary,
        finished.rounds,
        finished.timings,
    ):
        assert file.is_file()
    summary = finished.read_summary()
    keys = {
        "pipeline",
        "method",
        "seed",
        "leaky",
        "selected_round",
        "sites",
        "held_out",
        "stability",
        "timings",
        "versions",
    }
    assert keys <= summary.keys()
    site = {
        "role",
        "n",
        "n_groups",
        "supported_classes",
        "auroc",
        "auroc_ci",
        "balanced_accuracy",
        "ece",
        "brier",
        "nll",
    }
    assert all(site <= entry.keys() for entry in summary["sites"].values())
    assert {"mean_auroc", "worst_auroc", "mean_ece"} <= summary["held_out"].keys()
    stability = {"oscillation", "largest_drop", "site_spread", "drift", "coherence", "update_cosine"}
    assert stability | {"accumulated_variance", "rounds_to_target"} <= summary["stability"].keys()
    assert {"total", "train", "evaluate", "aggregate", "track"} <= summary["timings"].keys()
    assert summary["method"] == "ecgr"
    assert summary["selected_round"] == 3
    assert not summary["leaky"]
    records = finished.records()
    assert [r["round"] for r in records] == [0, 1, 2, 3]
    assert not any("held-out-01" in r["sites"] for r in records)


def test_allocation_is_disjoint_for_anyone_who_looks(finished):
    places: dict[str, set] = {}
    with finished.allocation.open() as stream:
        for row in csv.DictReader(stream):
            places.setdefault(row["group"], set()).add((row["site"], row["split"]))
    assert len(places) > 30
    assert all(len(where) == 1 for where in places.values())


def test_two_runs_are_the_same_bytes_and_another_seed_is_not(small, finished, tmp_path):
    again = run(load_pipeline(small), tmp_path / "again").folder
    same_result(finished, again)
    other = run(load_pipeline(small, ["seed=6", "training.rounds=1"]), tmp_path / "other").folder
    assert other.rounds.read_text().splitlines()[0] != finished.rounds.read_text().splitlines()[0]


def test_permuting_site_files_changes_only_the_order_of_rows(small, finished, tmp_path):
    pipeline = load_pipeline(finished.pipeline)
    turned = pipeline.sites.model_copy(update={"train": list(reversed(pipeline.sites.train))})
    folder = run(pipeline.model_copy(update={"sites": turned}), tmp_path / "turned").folder
    same_result(finished, folder)
    for name in ("allocation", "allocation_summary"):
        lines = [sorted(getattr(f, name).read_text().splitlines()) for f in (finished, folder)]
        assert lines[0] == lines[1]
    assert folder.read_summary()["sites"] == finished.read_summary()["sites"]


def test_interrupted_anywhere_and_resumed_is_the_same_run(small, finished, tmp_path):
    class Stop(Exception):
        pass

    for stop in (0, 2):

        def watch(record, rounds, stop=stop):
            if record["round"] == stop:
                raise Stop

        out = tmp_path / f"stopped-{stop}"
        with pytest.raises(Stop):
            run(load_pipeline(small), out, ProgressCallbacks(round=watch))
        with (out / "rounds.jsonl").open("a") as stream:
            stream.write('{"round": 99, "torn')
        same_result(finished, resume(out).folder)


def test_killed_outright_and_resumed_is_the_same_run(small, finished, tmp_path):
    out = tmp_path / "killed"
    killed_after_a_round(run, load_pipeline(small), out)
    same_result(finished, resume(out).folder)


def test_a_finished_run_resumes_to_itself(finished):
    before = finished.rounds.read_bytes()
    resume(finished.path)
    assert finished.rounds.read_bytes() == before


def test_resume_refuses_other_data(small, tmp_path):
    folder = run(load_pipeline(small, ["training.rounds=1"]), tmp_path / "r").folder
    folder.allocation.write_text(folder.allocation.read_text().replace("train", "val", 1))
    with pytest.raises(MedflError, match="has changed"):
        resume(folder.path)


def test_selection_by_validation_metric_keeps_that_rounds_model(small, tmp_path):
    chosen = load_pipeline(
        small, ["select={metric: val_mean_loss, mode: min}", "training.optimizer.lr=0.05", BATCHNORM]
    )
    outcome = run(chosen, tmp_path / "best")
    losses = [np.mean([e["val"]["loss"] for e in record["sites"].values()]) for record in outcome.folder.records()]
    best = int(np.argmin(losses))
    assert outcome.summary["selected_round"] == best
    alone = run(
        load_pipeline(small, [f"training.rounds={best}", "training.optimizer.lr=0.05", BATCHNORM]), tmp_path / "cut"
    )
    first, second = weights(outcome.folder), weights(alone.folder)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_local_buffers_are_labelled_and_exclude_selection(small, tmp_path):
    outcome = run(load_pipeline(small, ["training.buffers=local", "training.rounds=1"]), tmp_path / "local")
    assert outcome.summary["model"]["buffers"] == "local"
    with pytest.raises(MedflError, match="select"):
        prepare(load_pipeline(small, ["training.buffers=local", "select={metric: val_mean_loss, mode: min}"]))


def test_divergence_everywhere_stops_with_the_last_good_weights(small, tmp_path):
    out = tmp_path / "diverged"
    with pytest.raises(RunFailed, match=r"site-01: the training loss is not finite in round 2"):
        run(load_pipeline(small, ["training.optimizer.lr=1e30", "training.rounds=9"]), out)
    state, _ = RunFolder(out).load_checkpoint({})
    assert torch.isfinite(state.weights).all()
    assert all(not r["counted"] for r in RunFolder(out).records())


def test_a_run_whose_sites_all_failed_has_failed(small, tmp_path, monkeypatch):
    """Two rounds: too few for the loop itself to give up."""

    def fail(site, request):
        raise SiteDiverged("nothing to learn")

    monkeypatch.setattr(Site, "_train", fail)
    out = tmp_path / "untrained"
    with pytest.raises(RunFailed, match=r"nothing was trained \(round 1: site-01: nothing to learn") as caught:
        run(load_pipeline(small, ["training.rounds=2"]), out)
    assert caught.value.exit_code == 1
    assert len(RunFolder(out).records()) == 3
    assert not RunFolder(out).summary.exists()
    with pytest.raises(MedflError, match="not finished"):
        register_run(out, name="never")
    with pytest.raises(RunFailed, match="nothing was trained"):
        resume(out)


def test_a_model_that_no_site_can_measure_is_no_result(small, tmp_path, monkeypatch):
    handle = Site.handle

    def fail(site, request):
        if isinstance(request, MeasureRequest):
            raise SiteDiverged("scores are not finite")
        return handle(site, request)

    monkeypatch.setattr(Site, "handle", fail)
    with pytest.raises(RunFailed, match=r"no site could be measured on test data \(.*site-01: scores are not finite"):
        run(load_pipeline(small, ["training.rounds=1"]), tmp_path / "unmeasured")
    assert not (tmp_path / "unmeasured" / "summary.json").exists()


def test_a_selected_model_is_finite_and_a_metric_that_no_round_has_selects_none(small):
    setup = prepare(load_pipeline(small, ["select={metric: val_mean_auroc, mode: max}"]))
    state = setup.initial_state()
    with pytest.raises(RunFailed, match="val_mean_auroc"):
        select_model(setup, state)
    selected = SelectedModel(2, state.weights * float("nan"), state.buffers)
    with pytest.raises(RunFailed, match="the model of round 2 is not finite"):
        conclude_global(setup, RunFolder("never-written"), selected)


def test_a_site_that_never_trained_alone_has_no_model_of_its_own(small, tmp_path, monkeypatch):
    train = Site._train

    def fail(site, request):
        if site.name == "site-02":
            raise SiteDiverged("nothing to learn")
        return train(site, request)

    monkeypatch.setattr(Site, "_train", fail)
    alone = load_pipeline(small, ["method=[]", "baseline=local_only", "training.rounds=1"])
    summary = run(alone, tmp_path / "alone").summary
    assert sorted(summary["cross_site_auroc"]) == ["site-01", "site-03"]
    assert "site-02" not in summary["sites"]
    assert any(f["site"] == "site-02" and "no model of its own" in f["reason"] for f in summary["failures"])
    assert report_html(tmp_path / "alone")


def test_a_network_that_cannot_take_the_patches_is_refused_before_data_are_drawn(small, tmp_path, monkeypatch):
    monkeypatch.setattr("medfl.pipeline.prepare.make_partition", None)
    for override, said in (("model={backbone: vit_tiny_patch16_224}", "224"), ("training.batch_size=1", "BatchNorm")):
        with pytest.raises(MedflError, match=said):
            run(load_pipeline(small, [BATCHNORM, override]), tmp_path / "refused")


def test_three_own_folders_with_their_own_names_and_missing_classes(tmp_path):
    roots = [
        (own_folder(tmp_path / "a", {"adeno": 0, "normal": 1}, 1), {"adeno": "lung_aca", "normal": "lung_n"}),
        (own_folder(tmp_path / "b", {"lung_n": 1, "colon_n": 2}, 2), {}),
        (
            own_folder(tmp_path / "c", {"AC": 0, "NL": 1, "CN": 2}, 3),
            {"AC": "lung_aca", "NL": "lung_n", "CN": "colon_n"},
        ),
    ]
    sites = [
        {"name": root.name, "data": {"source": "folder", "root": str(root)}, "labels": labels} for root, labels in roots
    ]
    sites = {"train": sites[:2], "held_out": sites[2:]}
    path = write_tiny(tmp_path, data=OWN, sites=sites, method=["ecgr"], training={"local_epochs": 2})
    summary = run(load_pipeline(path), tmp_path / "run").summary
    assert summary["sites"]["a"]["supported_classes"] == ["lung_aca", "lung_n"]
    assert summary["sites"]["b"]["supported_classes"] == ["lung_n", "colon_n"]
    assert summary["sites"]["c"]["n"] == 72
    assert summary["sites"]["c"]["supported_classes"] == ["lung_aca", "lung_n", "colon_n"]
    assert summary["sites"]["a"]["auroc_per_class"]["colon_n"] is None


def test_a_site_of_one_class_says_not_available(tmp_path, capsys):
    root = own_folder(tmp_path / "a", {"lung_n": 1}, 1)
    both = own_folder(tmp_path / "b", {"lung_n": 1, "colon_n": 2}, 2)
    sites = [{"name": r.name, "data": {"source": "folder", "root": str(r)}} for r in (root, both)]
    path = write_tiny(tmp_path, data=OWN, sites={"train": sites}, method=["ecgr"], training={"rounds": 1})
    summary = run(load_pipeline(path), tmp_path / "run").summary
    assert summary["sites"]["a"]["auroc"] is None
    assert summary["train_sites"]["mean_auroc"] == summary["sites"]["b"]["auroc"]
    print_sites(Terminal(), summary["sites"])
    assert "n/a" in capsys.readouterr().out


def test_ignored_source_groups_stamp_the_result_leaky(tmp_path):
    flat = tmp_path / "flat"
    rng = np.random.default_rng(0)
    for label in ("lung_n", "colon_n"):
        (flat / label).mkdir(parents=True)
        for k in range(30):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(flat / label / f"{k}.png")
    data = {"source": "lc25000", "root": str(flat), "size": 32, "source_groups": "ignore"}
    path = write_tiny(tmp_path, data=data, sites={"train": [{"name": "a"}]}, training={"rounds": 1})
    assert run(load_pipeline(path), tmp_path / "run").summary["leaky"]
    with pytest.raises(MedflError, match="source groups"):
        prepare(load_pipeline(path, ["data.source_groups=null"]))


def test_the_plan_of_a_dry_run(small, capsys):
    prepared = prepare(load_pipeline(small))
    print_plan(prepared, Terminal())
    shown = capsys.readouterr().out
    bytes_each_way = 4 * (prepared.shared.model.layout.size + prepared.shared.model.buffer_layout.size)
    assert f"{bytes_each_way / 1e6:.1f} MB" in shown
    assert "site-01" in shown
    assert f"{prepared.shared.model.layout.size:,} trainable" in shown


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [1.0, 1.0, 1.0, 1.0]),
        ({"name": "cosine"}, [1.0, 0.853553, 0.5, 0.146447]),
        ({"name": "step", "every": 2, "gamma": 0.1}, [1.0, 1.0, 0.1, 0.1]),
        ({"warmup": 1}, [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_learning_rate_over_rounds(schedule, expected):
    from medfl.config import LearningRateSchedule

    assert [lr_scale(LearningRateSchedule(**schedule), t, 4) for t in range(4)] == pytest.approx(expected, abs=1e-6)


def test_rounds_hold_no_timings_and_no_paths(finished, tmp_path):
    text = finished.rounds.read_text() + finished.summary.read_text() + finished.allocation_summary.read_text()
    assert "jpeg" not in text
    assert str(finished.path.parent) not in text
    assert "seconds" not in finished.rounds.read_text()
    assert json.loads(finished.timings.read_text().splitlines()[0])["train"] > 0
