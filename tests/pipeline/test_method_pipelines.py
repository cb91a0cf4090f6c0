"""Every shipped pipeline of a method carries out, cut short, at four of the shipped institutions with few patches.

Those that end in a way of their own do so to the end; of the others a round is trained, which is all that is theirs."""

import pytest
import yaml

from medfl.cli.console_tables import print_outcome
from medfl.cli.terminal import Terminal
from medfl.methods.core.registry import built_in_methods
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.plan_checks import check_plan
from medfl.pipeline.prepare import prepare
from medfl.pipeline.run import run
from tests.paths import ROOT

METHODS = sorted((ROOT / "pipelines" / "methods").glob("*.yaml"))
SHORT = [
    "training.rounds=2",
    "training.local_steps=2",
    "training.batch_size=8",
    "training.threads=1",
    "evaluation.resamples=100",
    "tracking.enabled=false",
    "data.size=32",
    "data.tissue={tiles_per_class: 30, copies: 4, size: 32}",
]
TRAIN, FURTHER = ["lung_centre", "colon_clinic", "general_hospital"], ["screening_programme", "rural_laboratory"]
HELD_OUT = ["private_laboratory"]
NEED_FIVE = ("krum", "trimmed_mean")  # of fewer replies they leave nothing out
# A plain run, the baselines, one over time, a ledger, models that stay at a site (pflalign's are looked at below).
TO_THE_END = ("fedavg", "centralised", "local_only", "fedbuff", "dp", "scaffold", "fedbn", "finetune")


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Settings that cut a pipeline short, given its name; the sites are the shipped ones with 40 patches each."""
    folder = tmp_path_factory.mktemp("site_configs")
    for name in (*TRAIN, *FURTHER, *HELD_OUT):
        site = yaml.safe_load((ROOT / "site_configs" / f"{name}.yaml").read_text()) | {"patches": 40}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(site))

    def settings(name):
        train = TRAIN + FURTHER if name in NEED_FIVE else TRAIN
        files = {
            role: [f"{folder / site}.yaml" for site in at] for role, at in (("train", train), ("held_out", HELD_OUT))
        }
        return [*SHORT, f"sites={yaml.safe_dump(files, default_flow_style=True, width=10_000).strip()}"]

    return settings


def test_every_method_has_a_pipeline():
    used = {name for path in METHODS for name in load_pipeline(path).method for name in [name_of(name)]}
    same_file = {
        "adaptive_ecgr",
        "fedavgm",
        "fedadagrad",
        "fedyogi",
        "median",
        "fedlesam",
    }  # variants that fedadam.yaml, trimmed_mean.yaml ... name
    assert used | same_file == set(built_in_methods())


def name_of(entry):
    return entry if isinstance(entry, str) else entry["name"]


@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in METHODS if p.stem not in TO_THE_END])
def test_it_trains_a_round(path, short):
    pipeline = load_pipeline(path, short(path.stem))
    setup = prepare(pipeline)
    check_plan(pipeline, setup.partition.counts())
    record = setup.federation(setup.initial_state()).run_round()
    assert record["counted"]
    assert not record["failures"]


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=() if p.stem in TO_THE_END else pytest.mark.slow) for p in METHODS],
)
def test_it_carries_out(path, short, tmp_path):
    summary = run(load_pipeline(path, short(path.stem)), tmp_path / "run").summary
    assert not summary["failures"]
    measured = summary["cross_site_auroc"]["lung-centre"] if path.stem == "local_only" else summary["sites"]
    assert len(measured) == (6 if path.stem in NEED_FIVE else 4)
    assert summary["rounds"] == 2


def test_personal_models_are_reported_beside_the_global_one(short, tmp_path, capsys):
    path = next(path for path in METHODS if path.stem == "pflalign")
    summary = run(load_pipeline(path, short(path.stem)), tmp_path / "run").summary
    for entry in summary["sites"].values():
        assert ("models" in entry) == (entry["role"] == "train")
    site = summary["sites"]["general-hospital"]
    assert set(site["models"]) == {"aligned", "personalised"}
    assert len({site["nll"], site["models"]["aligned"]["nll"], site["models"]["personalised"]["nll"]}) == 3
    print_outcome(Terminal(), summary, "run", "MLflow: off")
    assert "personalised" in capsys.readouterr().out
