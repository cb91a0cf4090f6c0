"""A model watched after deployment: stain drift is found, sums merge, bad input is one sentence, exit codes."""

import json
import shutil
import sys
from statistics import NormalDist

import numpy as np
import pytest

from medfl.cli.app import main
from medfl.data.group_stain import group_stains
from medfl.data.stain import PROFILES, apply, profile
from medfl.data.synthetic.tissue import draw_copies
from medfl.errors import MedflError
from medfl.metrics.drift import Moments
from medfl.metrics.monitored import GAP, TOGETHER, from_lists
from medfl.metrics.prevalence import PredictedCounts
from medfl.pipeline.monitor_reference import MonitorReference
from medfl.pipeline.monitor_sites import judged
from medfl.pipeline.monitor_sums import MonitorSums, site_sums
from medfl.pipeline.monitored_patches import MonitoredPatches, monitored_patches
from medfl.pipeline.trained_model import find_model
from medfl.report.monitor_page import monitor_html
from medfl.tracking.log_monitoring import monitored_values
from tests.datafiles import write_folders, write_image
from tests.runfolders import FakeRun

CLASSES = ["lung_n", "colon_n"]


@pytest.fixture(scope="module")
def tissue():
    """A patch u8[n, 32, 32, 3] of each of 40 source groups."""
    return np.stack([draw_copies(CLASSES[number % 2], 9, number, 32, 1)[0] for number in range(40)])


def patches(tissue, rows, site="north", strength=0.0, labelled=1.0, seed=0):
    """New patches of some groups, two of each, with scores that are right four times in five."""
    rng, rows = np.random.default_rng(seed), np.repeat(np.asarray(rows), 2)
    images = tissue[rows]
    if strength:
        images = apply(images, profile(list(PROFILES)[-1]), strength)
    labels = rows % 2
    right = np.where(rng.random(len(rows)) < 0.8, labels, 1 - labels)
    p = np.where(right == 1, 0.8, 0.2)
    known = np.where(rng.random(len(rows)) < labelled, labels, -1)
    stain = group_stains(images, np.arange(len(rows)), rows)
    return MonitoredPatches(site, np.column_stack([1 - p, p]), known, rows, stain, 5)


def reference(*parts):
    sums = {new.site: site_sums(new, CLASSES)[0].moments for new in parts}
    return MonitorReference("run r", sums, np.array([[80.0, 20.0], [20.0, 80.0]]), np.array([30.0, 30.0]))


def test_stain_drift_is_found_and_its_absence_too(tissue):
    known = reference(patches(tissue, range(20)))
    same, _ = site_sums(patches(tissue, range(20, 40), seed=1), CLASSES)
    moved, figures = site_sums(patches(tissue, range(20, 40), strength=1.0, seed=1), CLASSES)
    assert not judged({"north": same}, known, CLASSES)["alarm"]
    result = judged({"north": moved}, known, CLASSES)
    assert {alarm["figure"] for alarm in result["alarms"]} & {"density_red", "density_green", "density_blue"}
    assert not {"confidence", "calibration_gap"} & set(result["sites"]["north"]["alarms"])
    assert figures["ece_ci"][0] <= figures["ece"] <= figures["ece_ci"][1]


def test_sums_of_two_sites_are_those_of_the_pooled_site(tissue):
    one, other, both = (patches(tissue, rows, seed=7) for rows in (range(16), range(16, 40), range(40)))
    joined = MonitoredPatches(
        "both",
        *(np.concatenate([getattr(one, k), getattr(other, k)]) for k in ("probs", "labels", "groups", "stain")),
        1,
    )
    one, other = (MonitoredPatches(p.site, p.probs, p.labels, p.groups, p.stain, 1) for p in (one, other))
    merged, whole = site_sums(one, CLASSES)[0] + site_sums(other, CLASSES)[0], site_sums(joined, CLASSES)[0]
    assert merged.moments == whole.moments
    assert merged.predicted.to_lists() == whole.predicted.to_lists()
    assert merged.scores.nll() == pytest.approx(whole.scores.nll(), rel=1e-12)
    assert merged.scores.ece() == pytest.approx(whole.scores.ece(), rel=1e-12)
    names = {"a": site_sums(one, CLASSES)[0], "b": site_sums(other, CLASSES)[0]}
    together = judged(names, reference(both), CLASSES)["together"]
    assert together["patches"] == 80
    assert together["sums"]["moments"] == json.loads(json.dumps(whole.to_lists()["moments"]))


def test_a_drift_of_all_sites_that_none_shows_alone():
    """Half a deviation of one figure at each of six sites: no site's alarm, and the federation's."""

    spread = np.array([NormalDist(0.8, 0.1).inv_cdf((k + 0.5) / 40) for k in range(40)])
    predicted = PredictedCounts(40, np.array([20, 20]), np.array([[20, 0], [0, 20]]))

    def month(moved=0.0):
        moments = {"confidence": Moments.of(spread + moved), GAP: Moments.of(spread - 0.8)}
        return MonitorSums(40, 0, moments, predicted, None)

    before = dict.fromkeys("abcdef", month().moments)
    known = MonitorReference("run r", before, np.eye(2) * 40, np.array([30.0, 30.0]))
    result = judged(dict.fromkeys("abcdef", month(-0.05)), known, CLASSES)
    assert result["alarms"] == [{"site": TOGETHER, "figure": "confidence"}]
    assert result["alarm"]
    assert result["compared"] == 2 * 7
    whole = result["together"]
    assert whole["drift"]["confidence"]["low"] < -0.05 < whole["drift"]["confidence"]["high"]
    assert whole["compared_with"] == "the own patches of 6 sites in run r, site by site"
    assert whole["gap"]["low"] < whole["gap"]["value"] < whole["gap"]["high"]
    assert "ALARM" in monitor_html({**result, "run": "r", "time": ""}).split("all together: drift")[1]
    assert monitored_values(whole)["alarms"] == 1
    assert monitored_values(whole)["calibration/gap_low"] == whole["gap"]["low"]


def test_other_sites_together_are_compared_by_how_sites_differ(tissue):
    parts = {site: site_sums(patches(tissue, range(20), site, seed=k), CLASSES)[0] for k, site in enumerate("abcd")}
    known = MonitorReference("r", {s: parts[s].moments for s in "ab"}, np.eye(2), np.ones(2))
    others = judged({s: parts[s] for s in "cd"}, known, CLASSES)["together"]
    assert others["compared_with"] == "2 sites of r, by how those differ; these are 2 others"
    assert others["drift"]
    assert not others["alarms"]
    one_known = judged({s: parts[s] for s in "bc"}, known, CLASSES)["together"]
    assert (one_known["drift"], one_known["compared_with"][:7]) == ({}, "nothing")


def test_few_groups_tell_nothing(tissue):
    sums, figures = site_sums(patches(tissue, range(20), labelled=0.05), CLASSES)
    assert "calibration_gap" not in sums.moments
    assert sums.scores is None
    assert figures is None
    with pytest.raises(ValueError, match="source groups"):
        from_lists({"confidence": [4, 10, 100, 1000]}, CLASSES)


@pytest.fixture
def run(tmp_path):
    folder = FakeRun(tmp_path / "run").whole().folder
    text = (folder / "pipeline.yaml").read_text().replace("enabled: true", "enabled: false")
    (folder / "pipeline.yaml").write_text(text)
    return folder


def loose(folder, count=24, seed=0):
    rng = np.random.default_rng(seed)
    for number in range(count):
        write_image(folder / f"p{number % 8}" / f"{number}.png", rng.integers(60, 200, (32, 32, 3), dtype=np.uint8))
    return folder


@pytest.mark.parametrize(
    ("count", "words"), [(0, "holds no image"), (12, "monitoring takes 20 patches of 5 source groups")]
)
def test_too_little_is_refused(run, tmp_path, monkeypatch, count, words):
    monkeypatch.setattr(
        "medfl.pipeline.monitored_patches.scores", lambda model, images: np.full((len(images), 3), 1 / 3)
    )
    folder = loose(tmp_path / "new", count)
    folder.mkdir(exist_ok=True)
    with pytest.raises(MedflError, match=words):
        monitored_patches(find_model(str(run)), str(folder), None)


def test_a_folder_of_classes_is_no_folder_without_labels(run, tmp_path):
    with pytest.raises(MedflError, match="write a site file"):
        monitored_patches(find_model(str(run)), str(write_folders(tmp_path / "new", {"lung_n": 20})), None)
    site = tmp_path / "s.yaml"
    site.write_text(f"name: s\ndata: {{source: folder, root: {tmp_path / 'new'}, source_groups: null}}\n")
    write_folders(tmp_path / "new", {"bone": 4})
    with pytest.raises(MedflError, match="bone"):
        monitored_patches(find_model(str(run)), str(site), None)


def test_a_model_without_its_run_is_watched_on_a_folder_and_asks_for_a_pipeline_for_a_site(run, tmp_path, monkeypatch):
    """As one of the registry is, at a hospital that was not there."""
    monkeypatch.setattr("medfl.pipeline.monitored_patches.scores", lambda model, images: softened(images))
    (tmp_path / "model").mkdir()
    for name in ("model.safetensors", "model.json"):
        shutil.copy(find_model(str(run)).directory / name, tmp_path / "model")
    model = find_model(str(tmp_path / "model"))
    new = monitored_patches(model, str(loose(tmp_path / "new")), None)
    assert (model.run, new.min_count) == (None, 5)
    (tmp_path / "s.yaml").write_text(f"name: s\ndata: {{source: folder, root: {tmp_path / 'new'}}}\n")
    with pytest.raises(MedflError, match="say with --pipeline how its sites are dealt"):
        monitored_patches(model, str(tmp_path / "s.yaml"), None)


def test_the_command_writes_first_and_tells_a_cron_job(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("medfl.pipeline.monitored_patches.scores", lambda model, images: softened(images))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["medfl", "monitor", str(run), *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    assert not command("--site", loose(tmp_path / "new"), "--out", "first")
    printed = capsys.readouterr().out
    assert "nothing to compare with" in printed
    assert max(map(len, printed.split("new is compared")[0].splitlines())) <= 80
    paler = loose(tmp_path / "later" / "new")
    for file in paler.rglob("*.png"):
        write_image(file, np.full((32, 32, 3), 120, dtype=np.uint8) + np.uint8(hash(file.name) % 3))
    assert command("--site", paler, "--out", "second", "--baseline", "first/monitor.json") == 4
    result = json.loads((tmp_path / "second" / "monitor.json").read_text())
    assert result["alarm"]
    assert "ALARM" in (tmp_path / "second" / "report.html").read_text()
    assert "<script src" not in monitor_html(result)
    assert monitored_values(result["sites"]["new"])["alarms"] >= 1
    assert not command("--sums", "first/sums.json", "--out", "merged", "--baseline", "first/monitor.json")
    merged = json.loads((tmp_path / "merged" / "monitor.json").read_text())
    assert (
        merged["sites"]["new"]["sums"]
        == json.loads((tmp_path / "first" / "monitor.json").read_text())["sites"]["new"]["sums"]
    )
    assert "only its sums are known here" in capsys.readouterr().out
    assert command() == 2
    assert "--sums" in capsys.readouterr().err
    (tmp_path / "first" / "monitor.json").write_text(json.dumps(result | {"fingerprint": "other"}))
    assert command("--site", paler, "--baseline", "first/monitor.json") == 2
    assert "another model" in capsys.readouterr().err
    assert command("--sums", "second/sums.json", "--sums", "second/monitor.json") == 2
    assert "two sites are called new" in capsys.readouterr().err


def softened(images):
    bright = images.reshape(len(images), -1).mean(axis=1) / 400
    spread = images.reshape(len(images), -1).std(axis=1) / 400
    return np.column_stack([bright, spread, 1 - bright - spread])
