"""Real patches: LC25000, found through MEDFL_LC25000 or beside the repository; skipped where it is not at hand."""

from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from tests.datafiles import needs_lc25000, real_lc25000
from tests.paths import ROOT

PIPELINE = ROOT / "pipelines" / "lc25000_small.yaml"


@needs_lc25000
def test_institutions_that_do_not_differ_reach_what_the_data_allows(tmp_path):
    root = real_lc25000()
    same = "sites={generate: {count: 5, held_out: 2, dirichlet_alpha: 1000, stain_strength: 0}}"
    pipeline = load_pipeline(PIPELINE, [f"data.root={root}", same, "method=[]", "tracking.enabled=false"])
    summary = run(pipeline, tmp_path / "run").summary
    assert summary["held_out"]["mean_auroc"] >= 0.99
    assert not summary["leaky"]
    assert min(entry["n_groups"] for entry in summary["sites"].values()) >= 20
