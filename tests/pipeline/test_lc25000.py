"""Real patches: LC25000, found through MEDFL_LC25000 or beside the repository; skipped where it is not at hand."""

import pytest

from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from tests.datafiles import needs_lc25000, real_lc25000
from tests.paths import ROOT

PIPELINE = ROOT / "pipelines" / "lc25000_small.yaml"
ALIKE = "dirichlet_alpha: 1000, stain_strength: 0"  # institutions that do not differ
FEW = [f"sites={{generate: {{count: 2, held_out: 1, patches: 300, {ALIKE}}}}}", "data.size=48", "training.rounds=8"]
ALL = [f"sites={{generate: {{count: 5, held_out: 2, {ALIKE}}}}}", "data.size=64", "training.rounds=20"]
SMALL = [
    "model={backbone: test_resnet}",
    "training.augment={}",
    "training.optimizer={name: sgd, lr: 0.05, momentum: 0.9, weight_decay: 0.0005}",
]  # a network of 0.4 M that trains from nothing


@pytest.mark.long
@needs_lc25000
@pytest.mark.parametrize(
    ("settings", "least"), [(FEW, 0.93), pytest.param(ALL, 0.99, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_institutions_that_do_not_differ_reach_what_the_data_allows(settings, least, tmp_path):
    settings = [
        *settings,
        *SMALL,
        f"data.root={real_lc25000()}",
        "method=[]",
        "tracking.enabled=false",
        "training.threads=1",
    ]
    summary = run(load_pipeline(PIPELINE, settings), tmp_path / "run").summary
    assert summary["held_out"]["mean_auroc"] >= least
    assert not summary["leaky"]
    assert min(entry["n_groups"] for entry in summary["sites"].values()) >= 15
