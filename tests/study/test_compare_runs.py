"""`medfl compare`: two finished runs on the same held-out patches, and runs that cannot be compared."""

import contextlib
import json
import shutil
import sys

import pytest

from medfl.cli import app
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from medfl.study.compare_runs import compare_runs, verdict
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two runs of one partition, one with a quarter of the learning rate."""
    folder = tmp_path_factory.mktemp("compared")
    file = write_tiny(
        folder, training={"rounds": 1}, task={"classes": ["lung_aca", "lung_n", "colon_n"], "malignant": ["lung_aca"]}
    )
    for name, rate in (("fast", 0.02), ("slow", 0.005)):
        run(load_pipeline(file, [f"training.optimizer.lr={rate}"]), folder / name)
    return folder


def test_figures_are_those_of_each_run_and_differences_are_paired(runs):
    result = compare_runs(runs / "fast", runs / "slow")
    (site,) = result["sites"].values()
    for key, side in (("one", "fast"), ("other", "slow")):
        (entry,) = [
            entry
            for entry in json.loads((runs / side / "summary.json").read_text())["sites"].values()
            if entry["role"] == "held_out"
        ]
        assert site["n_groups"] == entry["n_groups"]
        for figure in ("auroc", "balanced_accuracy", "brier", "ece"):
            assert site["figures"][figure][key] == pytest.approx(entry[figure], abs=1e-6)
    auroc = site["figures"]["auroc"]
    assert auroc["ci"][0] < auroc["difference"] < auroc["ci"][1]
    assert auroc["p"] is None or not site["few_groups"]
    assert (
        compare_runs(runs / "slow", runs / "fast")["sites"]["held-out-01"]["figures"]["auroc"]["difference"]
        == -auroc["difference"]
    )


def test_the_command_prints_a_table_and_writes_every_form(runs, tmp_path, monkeypatch, capsys):
    names = [tmp_path / f"c{ending}" for ending in (".html", ".png", ".json")]
    outs = [word for name in names for word in ("--out", str(name))]
    monkeypatch.setattr(sys, "argv", ["medfl", "compare", str(runs / "fast"), str(runs / "slow"), *outs])
    with contextlib.suppress(SystemExit):
        app.main()
    out = capsys.readouterr().out
    assert "balanced accuracy" in out
    assert "\nAUROC at held-out-01: " in out or "\nAUROC: too few" in out
    page, picture, numbers = names
    assert "<svg" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(numbers.read_text())["one"] == "fast"


def test_runs_that_held_out_other_data_are_refused_by_name(runs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(runs / "slow", other)
    table = other / "allocation_summary.csv"
    text = table.read_text()
    table.write_text(text.replace("held-out-01", "elsewhere"))
    with pytest.raises(MedflError, match="they hold out held-out-01 and elsewhere"):
        compare_runs(runs / "fast", other)
    lines = text.splitlines()
    spoilt = [f"{line[:-8]}00000000" if line.startswith("held-out-01") else line for line in lines]
    table.write_text("\n".join(spoilt) + "\n")
    with pytest.raises(MedflError, match="held-out data of held-out-01 differ"):
        compare_runs(runs / "fast", other)


@pytest.mark.parametrize(
    ("ci", "few", "words"),
    [
        ((0.01, 0.05), False, "one is better"),
        ((-0.05, -0.01), False, "two is better"),
        ((-0.01, 0.05), False, "no difference shown"),
        ((0.01, 0.05), True, "too few source groups"),
        (None, False, "nothing is known"),
    ],
)
def test_the_verdict_claims_no_more_than_the_interval(ci, few, words):
    figures = {"auroc": {"one": 0.9, "other": 0.87, "difference": 0.03, "ci": ci, "p": None}}
    sites = {"east": {"few_groups": few, "figures": figures}}
    assert words in verdict({"one": "one", "other": "two", "sites": sites, "mean": None})
