"""The command line as people use it: what it prints, and one sentence with exit code 2 for everything they can mend."""

import csv
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss, roc_auc_score

from medfl.cli import app
from medfl.runs.versions import installed_version
from tests.datafiles import OWN, own_folder, pixels, write_image
from tests.tiny import CLASSES, write_tiny


@pytest.fixture
def medfl(monkeypatch, capsys):
    """medfl(*arguments) -> (exit code, standard output, standard error) of the command line, in this process."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["medfl", *map(str, arguments)])
        try:
            app.main()
            code = 0
        except SystemExit as done:
            code = done.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def small(tmp_path, monkeypatch):
    """small(**changes) -> path of the small pipeline with changes, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        return write_tiny(tmp_path, **changes)

    return write


def refused(result, *parts):
    """Exit code 2, one line on standard error that holds every part, no traceback."""
    code, _, error = result
    assert code == 2, result
    assert error.startswith("medfl: ")
    assert "Traceback" not in error
    assert all(part in error for part in parts), error


def test_help_names_every_command(medfl):
    code, out, _ = medfl("--help")
    assert code == 0
    for command in ("run", "resume", "evaluate", "predict", "register", "track", "methods", "data", "sites", "init"):
        assert f"\n  {command} " in out


def test_help_imports_nothing_heavy():
    heavy = {"torch", "mlflow", "monai", "pydantic", "numpy"}
    script = f"import sys, medfl.cli.app; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_run_evaluate_predict_and_recompute(medfl, small, tmp_path):
    path = small()
    code, out, error = medfl("run", path, "--out", "r")
    assert code == 0, error
    assert "round 2/2" in out
    assert "held-out-01" in out
    assert "Next: medfl evaluate r" in out
    code, out, error = medfl("evaluate", "r", "--json", "e.json", "--predictions", "scores")
    assert code == 0, error
    figures = json.loads(Path("e.json").read_text())["sites"]["held-out-01"]
    summary = json.loads(Path("r/summary.json").read_text())["sites"]["held-out-01"]
    assert figures == summary
    with open("scores/held-out-01.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:3] == ["id", "source_group", "label"]
    labels = np.array([CLASSES.index(row["label"]) for row in rows])
    probs = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])
    probs /= probs.sum(1, keepdims=True)
    each = [roc_auc_score(labels == k, probs[:, k]) for k in range(len(CLASSES))]
    assert figures["auroc"] == pytest.approx(np.mean(each), abs=1e-6)
    assert figures["nll"] == pytest.approx(log_loss(labels, probs, labels=range(3)), abs=1e-6)
    assert figures["brier"] == pytest.approx(
        brier_score_loss(labels, probs, labels=range(3), scale_by_half=False), abs=1e-6
    )
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, probs.argmax(1)))
    assert len({row["source_group"] for row in rows}) == figures["n_groups"]
    refused(medfl("evaluate", "r", "--sites", "none.yaml"), "none.yaml")
    refused(medfl("run", path, "--out", "r"), "already holds a run", "medfl resume")

    (tmp_path / "new").mkdir()
    write_image(tmp_path / "new" / "one.png", pixels(1, 50))
    write_image(tmp_path / "new" / "two.jpeg", pixels(2, 32))
    code, out, error = medfl("predict", "r", "new")
    assert code == 0, error
    lines = out.splitlines()
    assert lines[0] == "file,p_lung_aca,p_lung_n,p_colon_n"
    assert [line.split(",")[0] for line in lines[1:]] == ["one.png", "two.jpeg"]
    assert sum(map(float, lines[1].split(",")[1:])) == pytest.approx(1, abs=1e-5)
    refused(medfl("predict", "r", "nowhere"), "nowhere")

    own = own_folder(tmp_path / "own", {"adeno": 0, "normal": 1}, 3)
    code, out, error = medfl("init", "site", "--data", own, "--name", "ward")
    assert code == 0, error
    site = yaml.safe_load(Path("ward.yaml").read_text())
    assert site["name"] == "ward"
    Path("ward.yaml").write_text(yaml.safe_dump(site | {"labels": {"adeno": "lung_aca", "normal": "lung_n"}}))
    Path("annex.yaml").write_text(Path("ward.yaml").read_text().replace("name: ward", "name: annex"))
    code, out, error = medfl("evaluate", "r", "--sites", "ward.yaml", "annex.yaml")
    assert code == 0, error
    assert "ward: confusion" in out
    assert "annex: confusion" in out
    refused(medfl("init", "site", "--data", own, "--name", "ward"), "ward.yaml exists already")
    refused(medfl("init", "site", "--data", "nowhere"), "nowhere")


def test_check_preview_dry_run_and_methods(medfl, small):
    code, out, error = medfl("data", "check", small())
    assert code == 0, error
    assert "Disjoint" in out
    assert "site-01" in out
    code, out, error = medfl("sites", "preview", small(), "--out", "picture.png")
    assert code == 0, error
    picture = Image.open("picture.png")
    assert picture.width > 600
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 1000
    code, out, error = medfl("run", small(), "--dry-run")
    assert code == 0, error
    assert "steps a round" in out
    assert not Path("runs").exists()
    code, out, _ = medfl("methods")
    assert "ecgr" in out
    assert "beta=0.2" in out
    code, out, _ = medfl("backbones")
    assert code == 0
    assert "Apache-2.0" in out


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        (["training.ruonds=3"], ["training.ruonds", '"rounds"']),
        (["method=[ecrg]"], ["method", '"ecgr"']),
        (["method=[{name: ecgr, beta: -1}]"], ["method.ecgr", "beta"]),
        (["model.backbone=resnet81"], ["model.backbone", "resnet"]),
        (["model.backbone=[1]"], ["model.backbone"]),
        (["select={metric: val_auc, mode: max}"], ["select"]),
        (["training.optimizer.lr=.nan"], ["training.optimizer.lr"]),
        (["training.optimizer.lr=-1"], ["training.optimizer.lr"]),
        (["sites.generate.patches=5000"], ["demanded", "available"]),
        (["data.source=folder", "data.root=nowhere"], ["nowhere"]),
        (["data.source=lc25000"], ["MEDFL_LC25000"]),
        (["training.device=cuda:7"], ["training.device", "cuda:7"]),
        (["training.augment.jitter=[HEStein]"], ["HEStein", "HEStain"]),
        (["data.render=[RandGausianNoised]"], ["RandGausianNoised", "RandGaussianNoised"]),
        (["task.classes=[lung_aca, liver]"], ["liver"]),
    ],
)
def test_wrong_pipelines(medfl, small, sets, parts):
    arguments = [part for text in sets for part in ("--set", text)]
    refused(medfl("run", small(), "--out", "r", *arguments), *parts)
    assert not Path("r/pipeline.yaml").exists()


def test_missing_things(medfl, small, tmp_path):
    refused(medfl("run", "pipelines/none.yaml"), "none.yaml")
    refused(medfl("resume", "runs/none"), "runs/none")
    refused(medfl("evaluate", "runs/none"), "runs/none")
    refused(medfl("register", "runs/none", "--name", "x"), "runs/none")
    refused(medfl("track", "runs/none"), "runs/none")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    refused(medfl("run", broken), "broken.yaml", "line")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(lambda p: p.write_bytes(b""), "zero bytes"), (lambda p: p.write_bytes(p.read_bytes()[:60]), "")],
    ids=["zero-byte", "truncated"],
)
def test_bad_images_are_listed_or_skipped(medfl, small, tmp_path, spoil, reason):
    root = own_folder(tmp_path / "own", {"lung_n": 1, "colon_n": 2}, 2)
    spoil(root / "lung_n" / "patient-2-3" / "1.png")
    sites = {"train": [{"name": "ward", "data": {"source": "folder", "root": str(root)}}]}
    path = small(data=OWN, sites=sites, training={"rounds": 1})
    result = medfl("run", path, "--out", "r")
    refused(result, "1.png", "on_bad_image", reason)
    code, _, error = medfl("run", path, "--out", "r2", "--set", "data.on_bad_image=skip")
    assert code == 0, error


def test_a_read_only_run_folder(medfl, small, tmp_path):
    # A file where the folder should be cannot be written to by anyone, root included.
    (tmp_path / "file").write_text("")
    refused(medfl("run", small(), "--out", "file/run"), "cannot be written", "--out")
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.geteuid() != 0:
        refused(medfl("run", small(), "--out", locked / "run"), "cannot be written", "--out")
    locked.chmod(stat.S_IRWXU)


def test_two_sites_of_one_name_and_a_held_out_site_in_training(medfl, small, tmp_path):
    twice = {"train": [{"name": "a"}, {"name": "a"}]}
    refused(medfl("run", small(sites=twice)), "two sites", "a")
    (tmp_path / "far.yaml").write_text("name: far\nrole: held_out\n")
    refused(medfl("run", small(sites={"train": ["far.yaml"]})), "far.yaml", "held_out", "train")


def test_the_version(medfl):
    code, out, _ = medfl("--version")
    assert (code, out) == (0, f"medfl {installed_version()}\n")
