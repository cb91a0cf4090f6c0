"""Slides from a pipeline file to a trained model, and new slides from the model to tables and pictures."""

import csv
import json
import re

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from medfl.cli.app import app
from medfl.cli.commands.predict_command import predict
from medfl.data.catalog import counted_words
from medfl.data.partition import make_partition
from medfl.engines.nvflare.run_layout import lay_out
from medfl.engines.remote.site_endpoint import build
from medfl.errors import MedflError
from medfl.pipeline.evaluate_model import evaluate
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.monitored_patches import monitored_patches
from medfl.pipeline.patch_gallery import with_patches
from medfl.pipeline.predict_slides import predict_slides
from medfl.pipeline.run import run
from medfl.pipeline.trained_model import find_model
from medfl.report.run_results import read_evidence
from tests.encoders import damage_pixels, ward

pytest.importorskip("openslide")
SLIDE = re.compile(r'<span class="file">([^<]+)</span>')
PLAN = {
    "name": "slides",
    "task": {"classes": ["tumour", "normal"]},
    "data": {"source": "slides", "mode": "own", "size": 32, "mpp": 1.0},
    "model": {"mil": "abmil", "encoder": {"backbone": "test_resnet", "weights": "random"}, "hidden": 4},
    "training": {"rounds": 1, "batch_size": 4, "threads": 1, "optimizer": {"name": "adamw", "lr": 0.01}},
    "evaluation": {"resamples": 100},
    "disclosure": {"min_count": 1},
    "tracking": {"enabled": False},
}


def plan(folder, name="p", **update):
    """A pipeline of two hospitals, one held out; of patches where `model` names a backbone."""
    sites = {"train": [{"name": "a", "data": {"root": str(folder / "a")}}]}
    sites["held_out"] = [{"name": "b", "data": {"root": str(folder / "b")}}]
    raw = {**PLAN, "data": {**PLAN["data"], "cache": str(folder / "cache")}, "sites": sites, **update}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(raw))
    return folder / f"{name}.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospitals")
    ward(folder / "a", patients=8)
    ward(folder / "b", patients=5)
    for number in range(5):  # other slides than those of a
        (folder / "b" / f"s{number}.tif").write_bytes(
            (folder / "b" / f"s{number}.tif").read_bytes() + bytes([number + 1])
        )
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    return find_model(str(run(load_pipeline(plan(folder)), folder / "run").folder.path))


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    monkeypatch.setenv("MEDFL_CACHE", str(folder / "cache"))


def test_the_run_keeps_what_a_prediction_on_slides_needs(trained, folder):
    resolved = load_pipeline(folder / "run" / "pipeline.yaml")
    assert resolved.model.dim == 96
    assert trained.facts["origin"] == {"encoder": trained.facts["encoder"]["name"], "tile": "32 px at 1 mpp"}
    assert trained.facts["tile"]["min_tissue"] == 0.5
    assert counted_words(share.catalog for share in make_partition(resolved).sites) == "slides"


def test_new_slides_are_watched_by_a_site_file(trained, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("medfl.pipeline.monitored_patches.LEAST_PATCHES", 5)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"name": "c", "data": {"root": str(folder / "a")}}))
    new = monitored_patches(trained, str(tmp_path / "c.yaml"), None)
    assert new.probs.shape == (len(new.labels), 2)
    assert (set(new.labels.tolist()), len(new.stain)) == ({0, 1}, 0)
    with pytest.raises(MedflError, match="name a site file with `source: slides`"):
        monitored_patches(trained, str(folder / "a"), None)


def test_new_slides_are_scored_as_the_run_scored_its_own(trained, folder, tmp_path):
    evaluate(trained, predictions=tmp_path)
    rows = {row["id"].rpartition("/")[2]: row for row in csv.DictReader((tmp_path / "b.csv").open())}
    result = predict_slides(trained, folder / "b", tmp_path / "attention", tmp_path / "maps")
    assert not result.damaged
    assert {name for name, _ in result.rows} == {*rows, "bare.tif"}
    for name, scores in result.rows:
        if name in rows:
            assert scores[0] == pytest.approx(float(rows[name]["p_tumour"]), abs=1e-6)
    tiles = json.loads((tmp_path / "maps" / "s0.geojson").read_text())["features"]
    measured = [tile["properties"]["measurements"] for tile in tiles]
    assert sum(each["attention"] for each in measured) == pytest.approx(1, abs=1e-4)
    assert all(each["p_tumour"] + each["p_normal"] == pytest.approx(1, abs=1e-5) for each in measured)
    assert (tmp_path / "maps" / "s0.png").is_file()
    assert len((tmp_path / "attention" / "s0.csv").read_text().splitlines()) == 5
    page = (tmp_path / "maps" / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == len(result.rows)
    assert page.count("<span>labelled tumour</span>") == 3  # s0, s2, s4; of bare.tif nothing is known
    assert page.count("<span>labelled") == 5
    assert sorted(SLIDE.findall(page)) == sorted(name for name, _ in result.rows)


def test_a_sites_report_shows_its_slides_by_name_and_that_of_all_without(trained, tmp_path):
    evaluate(trained, predictions=tmp_path)
    rows = {row["id"].rpartition("/")[2]: row for row in csv.DictReader((tmp_path / "b.csv").open())}
    page, everyone = (str(with_patches(read_evidence(trained.run.path, site)).sections[0].body) for site in ("b", None))
    assert page.count("data:image/jpeg;base64,") == len(rows)
    captions = re.findall(r'<figcaption>(.+?)<span class="file">(.+?)</span>', page)
    assert {name for _, name in captions} == set(rows)
    for caption, name in captions:
        scores = {word: float(rows[name][f"p_{word}"]) for word in ("tumour", "normal")}
        likeliest = max(scores, key=scores.__getitem__)
        assert caption == f"{likeliest} {scores[likeliest]:.2f}<span>labelled {rows[name]['label']}</span>"
    assert everyone.count("data:image/jpeg;base64,") > len(rows)
    assert not SLIDE.findall(everyone)


def test_a_damaged_slide_is_named_after_the_others_are_printed(trained, tmp_path):
    root = ward(tmp_path / "ward", patients=2)
    (root / "s1.tif").write_bytes(b"")
    result = CliRunner().invoke(app, ["predict", str(trained.directory), str(root)])
    assert "s0.tif" in result.stdout
    assert "1 slides cannot be read: s1.tif (zero bytes)" in str(result.exception)
    damage_pixels(root / "s0.tif")
    assert [name for name, _ in predict_slides(trained, root).rows] == ["bare.tif"]


def test_a_patch_classifier_shows_its_tiles_and_gives_a_slide_their_mean(folder, tmp_path):
    model = {"backbone": "test_resnet", "weights": "random"}
    pipeline = load_pipeline(plan(folder, "patches", model=model))
    assert counted_words(share.catalog for share in make_partition(pipeline).sites) == "tiles"
    outcome = run(pipeline, folder / "patches")
    result = predict_slides(find_model(str(outcome.folder.path)), folder / "b", heatmaps=tmp_path / "maps")
    tiles = json.loads((tmp_path / "maps" / "s0.geojson").read_text())["features"]
    mean = np.mean([tile["properties"]["measurements"]["p_tumour"] for tile in tiles])
    assert dict(result.rows)["s0.tif"][0] == pytest.approx(mean, abs=1e-5)
    model = find_model(str(outcome.folder.path))
    model.facts.update(malignant=["tumour"], patients={"top": 2})
    top = dict(predict_slides(model, folder / "b").rows)["s0.tif"]
    most = sorted(tile["properties"]["measurements"]["p_tumour"] for tile in tiles)[-2:]
    assert top[0] == pytest.approx(np.mean(most), abs=1e-5)
    with pytest.raises(MedflError, match=r"adapts a model to a folder of patches, and .* holds slides"):
        predict(str(outcome.folder.path), str(folder / "b"), adapt="class_mix")
    patches, slides = with_patches(read_evidence(outcome.folder.path, "b")).sections
    assert (patches.key, slides.key) == ("patches", "slides")
    assert len(SLIDE.findall(str(slides.body))) == 5
    with pytest.raises(MedflError, match="--attention is for models over bags"):
        predict_slides(find_model(str(outcome.folder.path)), folder / "b", attention=tmp_path)


def test_a_site_elsewhere_encodes_its_own_slides_and_tells_the_encoder(trained, folder, tmp_path):
    laid = lay_out(load_pipeline(folder / "p.yaml"), "simulator", tmp_path / "far")
    ready = build(laid.home / "a", "a")
    assert ready.greeting.origin.encoder == trained.facts["encoder"]["name"]
