"""The studies of docs/study-design.md load, and ask what the page says."""

import shutil

import pytest
import yaml

from medfl.study.endpoint_results import PRIMARY, questions
from medfl.study.study_file import StudyFile, load_study
from tests.paths import ROOT

DESIGNED = ROOT / "pipelines" / "studies" / "designed"


@pytest.mark.parametrize("name", ["heads", "network"])
def test_a_study_and_its_tuning_ask_for_the_same(name, tmp_path):
    """With one seed, and rates as a tuning study would choose them."""
    content = {key: yaml.safe_load((DESIGNED / f"{key}.yaml").read_text()) for key in (name, f"{name}-tuning")}
    study, tuning = (StudyFile.model_validate(its) for its in content.values())
    assert not set(study.seeds) & set(tuning.seeds)
    assert len(tuning.seeds) >= 20
    assert len(tuning.grid.values) == 5
    assert study.partitions == tuning.partitions
    primary = [question for question in questions(study) if question.rank == PRIMARY]
    assert [(q.method, q.against, q.endpoint.figure, q.endpoint.margin) for q in primary] == [
        ("ecgr", "fedavg", "held_out_mean_auroc", 0.005),
        ("ecgr", "fedavg", "trend_free_oscillation", None),
    ]
    shutil.copytree(ROOT / "pipelines" / "studies", tmp_path / "a" / "b" / "studies")
    folder = tmp_path / "a" / "b" / "studies" / "designed"
    rows = [f"{part},{arm},training.optimizer.lr,0.01," for part in study.partitions for arm in ("fedavg", "ecgr")]
    (folder / "chosen.csv").write_text("\n".join(["partition,method,key,value,edge", *rows]) + "\n")
    changed = content[name] | {"seeds": [1], "tuned": "chosen.csv", "design": "chosen.csv", "brackets": False}
    del changed["comparisons"]
    changed["partitions"] = dict(list(changed["partitions"].items())[-1:])
    changed["methods"] = {arm: study.arms()[arm].model_dump() for arm in ("fedavg", "ecgr-at-fedavg")}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    plan = load_study(folder / f"{name}.yaml")
    assert [run.method for run in plan.runs] == ["fedavg", "ecgr-at-fedavg"]
    assert {run.pipeline.training.optimizer.lr for run in plan.runs} == {0.01}


def test_personal_models_are_tuned_on_other_federations_by_their_own_figure():
    study, tuning = (
        StudyFile.model_validate(yaml.safe_load((DESIGNED / f"personal-{key}.yaml").read_text()))
        for key in ("heads", "tuning")
    )
    assert not set(study.seeds) & set(tuning.seeds)
    assert (len(tuning.seeds), len(tuning.grid.values)) == (
        20,
        9,
    )  # five, and a step more until no choice is at the edge
    assert study.partitions == tuning.partitions
    assert {study.endpoints.primary[0].figure, tuning.grid.by} == {"val_personalised_balanced_accuracy"}


@pytest.mark.parametrize("name", ["sparsity-network", "bandwidth-network"])
def test_a_small_network_is_asked_with_stated_rates(name):
    study = load_study(DESIGNED / f"{name}.yaml")
    assert len(study.file.seeds) == 20
    assert {run.pipeline.training.optimizer.lr for run in study.runs} <= {0.03, 0.01, 0.003}
    assert study.design is not None
