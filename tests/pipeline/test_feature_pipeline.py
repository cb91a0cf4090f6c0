"""A run over bags of features from the generated folders to the model used again: in one process and over bytes."""

import csv
import json

import h5py
import mlflow
import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

import medfl
from medfl.data.duplicates.leakage import find_leaks
from medfl.data.partition import make_partition
from medfl.engines.nvflare.run_layout import lay_out
from medfl.engines.remote.site_endpoint import build
from medfl.errors import MedflError
from medfl.export.exported_model import ExportedModel
from medfl.export.onnx_graphs import graph_of
from medfl.export.write_export import export
from medfl.pipeline.evaluate_model import evaluate, predict
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.monitored_patches import monitored_patches
from medfl.pipeline.patch_gallery import with_patches
from medfl.pipeline.run import run
from medfl.pipeline.trained_model import find_model
from medfl.report.run_report import report_html
from medfl.report.run_results import read_evidence
from medfl.runs.records import finished_run
from medfl.tracking.log_model import portable, save_model
from tests.bags import h5, table
from tests.datafiles import write_folders
from tests.engines.remote.test_endpoints import same_result, spoken
from tests.paths import ROOT

PLAN = {
    "name": "bags",
    "task": {"classes": ["benign", "malignant"]},
    "data": {
        "source": "features",
        "mode": "own",
        "bags": {"patients": 14, "tiles": [3, 6], "telling": 1, "dim": 8, "shift": 0.2},
    },
    "sites": {"train": [{"name": "north"}, {"name": "south"}], "held_out": [{"name": "west"}]},
    "model": {"mil": "abmil", "dim": 8, "hidden": 16, "args": {"attention": 8}},
    "training": {
        "rounds": 3,
        "local_epochs": 4,
        "batch_size": 4,
        "threads": 1,
        "optimizer": {"name": "adamw", "lr": 0.01},
        "augment": {"bag_dropout": 0.1},
    },
    "evaluation": {"resamples": 100},
    "disclosure": {"min_count": 1},
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    file = tmp_path_factory.mktemp("bags") / "bags.yaml"
    file.write_text(yaml.safe_dump(PLAN))
    return file


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    return run(load_pipeline(small), tmp_path_factory.mktemp("runs") / "run").folder


@pytest.fixture(scope="module")
def west(small):
    """The folder of the held-out site."""
    return make_partition(load_pipeline(small)).sites[-1].catalog.source.root


def test_features_of_new_slides_are_watched_and_patches_are_not(finished, west, tmp_path):
    def site(**data):
        (tmp_path / "new.yaml").write_text(yaml.safe_dump({"name": "new", "data": data}))
        return monitored_patches(find_model(str(finished.path)), str(tmp_path / "new.yaml"), None)

    new = site(root=str(west))
    assert new.probs.shape == (len(new.labels), 2)
    assert (set(new.labels.tolist()), len(new.stain)) == ({0, 1}, 0)
    images = write_folders(tmp_path / "images", {"benign": 12, "malignant": 12})
    with pytest.raises(MedflError, match="features"):
        site(root=str(images), source="folder")
    with pytest.raises(MedflError, match="name a site file with `source: features`"):
        monitored_patches(find_model(str(finished.path)), str(images), None)


def test_figures_are_of_slides_and_intervals_of_patients(finished, tmp_path):
    summary = finished.read_summary()
    own = summary["sites"]["west"]
    assert own["n"] > own["n_groups"] == 14
    assert summary["calibration"]["patches"] > 0
    assert summary["operating"]["thresholds"]
    facts = find_model(str(finished.path)).facts
    assert facts["backbone"] == "mil_abmil"
    assert facts["origin"] == {"encoder": "generated", "tile": "256 px at 0.5 mpp"}
    again = evaluate(find_model(str(finished.path)), predictions=tmp_path)
    assert again["held_out"]["mean_auroc"] == pytest.approx(summary["held_out"]["mean_auroc"], abs=1e-9)
    with (tmp_path / "west.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == own["n"]
    assert len({row["source_group"] for row in rows}) == 14
    truth = [row["label"] == "malignant" for row in rows]
    assert roc_auc_score(truth, [float(row["p_malignant"]) for row in rows]) == pytest.approx(own["auroc"], abs=1e-6)
    assert "west" in report_html(finished.path)
    # A patient counts once: by the mean of the probabilities of its slides.
    patients = own["patients"]
    assert patients["n"] == patients["n_groups"] == 14
    assert "slides" not in own
    with (tmp_path / "west.patients.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    truth = [row["label"] == "malignant" for row in rows]
    mine = roc_auc_score(truth, [float(row["p_malignant"]) for row in rows])
    assert patients["auroc"] == pytest.approx(mine, abs=1e-6)
    assert summary["held_out"]["patients"]["mean_auroc"] == patients["auroc"]


def test_a_folder_of_features_is_predicted_and_attention_sums_to_one(finished, west, tmp_path):
    model = find_model(str(finished.path))
    rows = dict(predict(model, west, attention=tmp_path))
    loaded = medfl.load_model(finished.path)
    assert isinstance(loaded, medfl.SlideClassifier)
    file = next(iter(sorted(west.rglob("west-003-*.h5"))))
    with h5py.File(file) as opened:
        features = opened["features"][...]
    np.testing.assert_allclose(loaded.predict_proba([features]), [rows[file.stem]], atol=1e-6)
    assert loaded.predict([features])[0] in loaded.classes
    with (tmp_path / f"{file.stem}.csv").open() as stream:
        tiles = list(csv.DictReader(stream))
    assert [float(tile["attention"]) for tile in tiles] == pytest.approx(loaded.attention([features])[0], abs=1e-4)
    assert sum(float(tile["attention"]) for tile in tiles) == pytest.approx(1, abs=1e-4)
    assert float(tiles[1]["x"]) == 256
    for bags, reason in (
        (features, "this is one bag"),
        ([features[:, :3]], r"bag 0 has the shape \[\d, 3\]"),
        ([features, features * np.nan], "bag 1 holds numbers that are not finite"),
    ):
        with pytest.raises(MedflError, match=reason):
            loaded.predict_proba(bags)


@pytest.mark.parametrize(
    ("features", "attrs", "reason"),
    [
        (np.zeros((2, 5), np.float32), {}, "has 5 numbers a tile, and the model reads 8"),
        (np.zeros((2, 8), np.float32), {"encoder": "uni"}, "of uni, and the model was trained on those of generated"),
        (
            np.full((2, 8), np.inf, np.float32),
            {},
            r"1 of 1 slides cannot be read: a \(the features of 2 of its 2 tiles",
        ),
    ],
)
def test_features_of_another_kind_are_not_predicted(finished, tmp_path, features, attrs, reason):
    h5(tmp_path / "a.h5", features, attrs=attrs)
    with pytest.raises(MedflError, match=reason):
        predict(find_model(str(finished.path)), tmp_path)


def test_the_served_model_takes_the_features_of_a_slide(finished, tmp_path):
    facts = portable(json.loads(finished.model_json.read_text()), finished.path)
    saved = save_model(finished_run(finished.path), facts, tmp_path, "m-1", "r-1")
    features = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    served = mlflow.pyfunc.load_model(str(saved))
    loaded = medfl.load_model(finished.path)
    table_ = served.predict(features)
    assert list(table_.columns) == loaded.classes
    np.testing.assert_allclose(table_.to_numpy(), loaded.predict_proba([features]), atol=1e-6)
    with pytest.raises(Exception, match="shape"):
        served.predict(features[:, :3])
    assert "medfl" not in [line.partition("=")[0] for line in (saved / "requirements.txt").read_text().splitlines()]


def test_what_is_for_images_is_refused_in_a_sentence(small, finished, tmp_path):
    with pytest.raises(MedflError, match="reads the features of a whole slide, and monai-bundle is written for models"):
        export(str(finished.path), "monai-bundle", tmp_path / "out")
    with pytest.raises(MedflError, match="was trained on features, of which there are no pictures"):
        with_patches(read_evidence(finished.path))
    with pytest.raises(MedflError, match="in which no near-copies are looked for"):
        find_leaks(make_partition(load_pipeline(small)), 0.75, False, lambda *_: None)


def test_a_graph_of_a_slide_says_what_medfl_says(finished):
    graph = graph_of(ExportedModel.of(find_model(str(finished.path))))
    assert graph.outputs == ("probabilities", "attention")
    for features, answers in graph.answers():
        for own, wanted in zip(graph(torch.from_numpy(features)), answers, strict=True):
            np.testing.assert_allclose(own.numpy(), wanted, atol=1e-5)


@pytest.mark.slow
def test_an_onnx_file_takes_the_features_of_a_slide_of_any_length(finished, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    assert "Compared with medfl" in export(str(finished.path), "onnx", tmp_path / "m.onnx")[-1]
    facts = json.loads((tmp_path / "m.json").read_text())
    assert facts["input"]["shape"] == ["tiles", 8]
    assert facts["origin"]["encoder"] == "generated"
    model, session = medfl.load_model(finished.path), onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    for tiles in (1, 2, 4000):
        features = np.random.default_rng(tiles).standard_normal((tiles, 8)).astype(np.float32)
        said, attention = session.run(["probabilities", "attention"], {"features": features})
        np.testing.assert_allclose(said, model.predict_proba([features]), atol=1e-5)
        np.testing.assert_allclose(attention, model.attention([features])[0], atol=1e-6)


def test_over_bytes_it_is_the_same_run_and_another_encoder_is_refused(small, finished, tmp_path):
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    assert spoken(laid) == {"done": True}
    same_result(finished, laid.folder)
    assert json.loads(laid.folder.model_json.read_text())["origin"]["encoder"] == "generated"
    file = laid.home / "south" / "site.yaml"
    own = yaml.safe_load(file.read_text()) | {"data": {"features": {"encoder": "uni"}}}
    file.write_text(yaml.safe_dump(own))
    assert build(laid.home / "south", "south").greeting.origin.encoder == "uni"
    end = spoken(laid)
    assert end["message"].startswith("site south has features of uni, site north of generated; ")


def test_in_one_process_another_encoder_is_refused_too(tmp_path):
    root = tmp_path / "east"
    for row in range(6):
        h5(root / f"s{row}.h5", np.ones((2, 8), np.float32), name="feats", attrs={"extractor": "uni"})
    table(
        root / "slides.csv", "patient,slide,label", *(f"p{r},s{r},{PLAN['task']['classes'][r % 2]}" for r in range(6))
    )
    east = {"name": "east", "data": {"root": str(root)}}
    raw = PLAN | {"sites": {"train": [{"name": "north"}], "held_out": [east]}}
    with pytest.raises(MedflError, match=r"^site east has features of uni, site north of generated; "):
        run(load_pipeline(raw), tmp_path / "run")


def test_both_baselines_run_over_bags(small, finished, tmp_path):
    for baseline in ("centralised", "local_only"):
        keys = [f"baseline={baseline}", "training.rounds=1", "training.local_epochs=1"]
        done = run(load_pipeline(small, keys), tmp_path / baseline)
        assert done.summary["sites"]["west"]["n_groups"] == 14 if baseline == "centralised" else done.summary["sites"]


def test_dealt_features_go_to_generated_sites(small):
    keys = ["data.mode=dealt", "data.bags.patients=30", "sites={generate: {count: 2, held_out: 1, dirichlet_alpha: 9}}"]
    partition = make_partition(load_pipeline(small, keys))
    assert [share.role for share in partition.sites] == ["train", "train", "held_out"]
    assert all(len(share.rows) for share in partition.sites)


def test_the_shipped_pipeline_loads():
    pipeline = load_pipeline(ROOT / "pipelines" / "features.yaml")
    assert pipeline.model.dim == pipeline.data.bags.dim
