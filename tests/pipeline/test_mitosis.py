"""Real scanners: the shipped pipeline on its folder layout, made up here, and planned on the real crops."""

import pytest
from typer.testing import CliRunner

from medfl.cli.app import app
from medfl.data.partition import make_partition
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.study.study_file import load_study
from tests.datafiles import needs_lc25000, needs_mitoses, write_folders
from tests.paths import LC25000, MITOSES, ROOT

PIPELINES = ROOT / "pipelines"
SITES = ("hamamatsu-xr", "hamamatsu-s360", "aperio-cs2", "tcga")


def test_two_scanners_train_and_the_others_are_measured(tmp_path):
    for number, name in enumerate(SITES):
        write_folders(tmp_path / name, {"normal": 8, "atypical": 8}, size=48, seed=100 * number)
    pipeline = load_pipeline(PIPELINES / "mitosis.yaml", [f"data.root={tmp_path}"])
    assert [(site.name, site.role) for site in pipeline.all_sites] == list(
        zip(SITES, ("train", "train", "held_out", "held_out"), strict=True)
    )
    partition = make_partition(pipeline)
    assert not partition.groups_unknown
    groups = {
        share.site: {split: len({*share.groups[rows]}) for split, rows in share.splits.items()}
        for share in partition.sites
    }
    assert groups["tcga"] == {"test": 8}
    assert sum(groups["hamamatsu-xr"].values()) == 8


def test_each_scanner_is_left_out_and_tcga_always():
    study = load_study(PIPELINES / "studies" / "mitosis.yaml")
    assert len(study.runs) == 8 * 5 * 3
    for planned in study.runs:
        out, tcga = (site.name for site in planned.pipeline.held_out_sites)
        assert (f"{out}-left-out", tcga) == (planned.partition, "tcga")
        assert {site.name for site in planned.pipeline.train_sites} == {*SITES} - {out, "tcga"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "root"),
    [
        pytest.param("mitosis", MITOSES, marks=needs_mitoses),
        pytest.param("lc25000_small", LC25000, marks=needs_lc25000),
    ],
)
def test_shipped_pipelines_plan_on_the_real_data(name, root):
    result = CliRunner().invoke(
        app, ["run", str(PIPELINES / f"{name}.yaml"), "--dry-run", "--set", f"data.root={root}"]
    )
    assert result.exit_code == 0, result.output
    assert "tf_efficientnet_lite0" in result.output
