"""Every shipped pipeline of a method carries out, cut short, on the tissue the quickstart uses too."""

import pytest

from medfl.cli.console_tables import print_outcome
from medfl.cli.terminal import Terminal
from medfl.methods.core.registry import built_in_methods
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from tests.paths import ROOT

METHODS = sorted((ROOT / "pipelines" / "methods").glob("*.yaml"))
SHORT = [
    "training.rounds=2",
    "training.local_steps=2",
    "evaluation.resamples=100",
    "tracking.enabled=false",
    "data.size=32",
]


def test_every_method_has_a_pipeline():
    used = {name for path in METHODS for name in load_pipeline(path).method for name in [name_of(name)]}
    same_file = {
        "fedavgm",
        "fedadagrad",
        "fedyogi",
        "median",
        "fedlesam",
    }  # variants that fedadam.yaml, trimmed_mean.yaml ... name
    assert used | same_file == set(built_in_methods())


def name_of(entry):
    return entry if isinstance(entry, str) else entry["name"]


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_it_carries_out(path, tmp_path):
    summary = run(load_pipeline(path, [*SHORT, "training.threads=1"]), tmp_path / "run").summary
    assert not summary["failures"]
    measured = summary["cross_site_auroc"]["lung-centre"] if path.stem == "local_only" else summary["sites"]
    assert len(measured) == 7
    assert summary["rounds"] == 2


def test_personal_models_are_reported_beside_the_global_one(tmp_path, capsys):
    path = next(path for path in METHODS if path.stem == "pflalign")
    summary = run(load_pipeline(path, [*SHORT, "training.threads=1"]), tmp_path / "run").summary
    for entry in summary["sites"].values():
        assert ("models" in entry) == (entry["role"] == "train")
    site = summary["sites"]["general-hospital"]
    assert set(site["models"]) == {"aligned", "personalised"}
    assert len({site["nll"], site["models"]["aligned"]["nll"], site["models"]["personalised"]["nll"]}) == 3
    print_outcome(Terminal(), summary, "run", "MLflow: off")
    assert "personalised" in capsys.readouterr().out
