"""The one-standard-error rule by hand, and what a study does with it."""

import pytest
import yaml

from medfl.errors import MedflError
from medfl.study.analysis import chosen
from medfl.study.study_file import load_study
from medfl.study.study_tables import RunRows, Tables
from medfl.study.tuning import choose, read_choices, write_choices
from tests.tiny import write_tiny

RATES = [0.001, 0.01, 0.1]


def test_the_smallest_within_one_standard_error_of_the_best():
    """Against .1, .01 loses .02 on average with a standard error of .0416, and then .1 with .0577."""
    near = [{0.001: 9.0, 0.01: 1.0 + d, 0.1: 1.0} for d in (0.1, -0.04, 0.0)]
    picked = choose(near, RATES)  # .02 worse on average, standard error .0416
    assert (picked.value, picked.edge, picked.federations) == (0.01, "", 3)
    far = [{0.001: 9.0, 0.01: 1.0 + d, 0.1: 1.0} for d in (0.1, 0.2, 0.0)]
    picked = choose(far, RATES)  # .1 worse, standard error .0577
    assert (picked.value, picked.edge) == (0.1, "highest")
    assert picked.losses == pytest.approx({0.001: 9.0, 0.01: 1.1, 0.1: 1.0})


def test_pairs_count_and_not_what_federations_differ_by():
    """Levels from 1 to 9 with .1 lost everywhere: unpaired no value could be told from another."""
    rows = [{0.001: level + 0.1, 0.01: level, 0.1: level + 0.2} for level in (1.0, 4.0, 9.0)]
    assert choose(rows, RATES).value == 0.01


def test_the_first_of_the_grid_is_marked_and_divergence_is_out():
    assert choose([{0.001: 1.0, 0.01: 1.1, 0.1: 1.2}] * 4, RATES).edge == "lowest"
    rows = [{0.001: 2.0, 0.01: 1.5, 0.1: 1.0}, {0.001: 2.0, 0.01: 1.5, 0.1: None}, {0.001: 2.0, 0.01: 1.5, 0.1: 1.0}]
    assert choose(rows, RATES).value == 0.01
    assert choose(rows, RATES).losses[0.1] == float("inf")
    assert choose([{}], RATES) is None


@pytest.fixture
def tuning(tmp_path):
    """A study with a grid, and tables in which .01 is best for fedavg and .001 for ecgr."""
    write_tiny(tmp_path)
    content = {
        "name": "t",
        "pipeline": "tiny.yaml",
        "seeds": {"first": 5, "count": 2},
        "methods": {"fedavg": [], "ecgr": ["ecgr"]},
        "brackets": False,
        "grid": {"values": RATES},
    }
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    study = load_study(tmp_path / "t.yaml")
    rows = {}
    for run in study.runs:
        name, _, rate = run.method.partition("@")
        loss = {"fedavg": {0.001: 2, 0.01: 1, 0.1: 3}, "ecgr": {0.001: 1, 0.01: 2, 0.1: 3}}[name][float(rate)]
        rows[run.key] = RunRows({"val_mean_nll": str(loss + run.seed), "chain": name}, [], [])
    return tmp_path, study, Tables(rows)


def test_every_method_runs_with_every_value(tuning):
    _, study, _ = tuning
    assert study.file.seeds == [5, 6]
    assert study.methods == [f"{name}@{rate}" for name in ("fedavg", "ecgr") for rate in ("0.001", "0.01", "0.1")]
    assert [run.pipeline.training.optimizer.lr for run in study.runs[:6]] == RATES * 2


def test_what_was_chosen_is_what_another_study_runs_with(tuning):
    folder, study, tables = tuning
    choices = chosen(study, tables)
    assert {name: choice.value for (_, name), choice in choices.items()} == {"fedavg": 0.01, "ecgr": 0.001}
    write_choices(choices, study.file.grid, folder)
    main = {"name": "m", "pipeline": "tiny.yaml", "seeds": [1], "brackets": False, "tuned": "chosen.csv"}
    methods = {"fedavg": [], "alike": {"method": ["ecgr"], "tuned_as": "fedavg"}}

    def load(**methods):
        (folder / "m.yaml").write_text(yaml.safe_dump(main | {"methods": methods}))
        return load_study(folder / "m.yaml")

    with pytest.raises(MedflError, match=r"ecgr on as_stated: training.optimizer.lr 0.001 is the lowest of its grid"):
        load(**methods)
    text = (folder / "chosen.csv").read_text()
    (folder / "chosen.csv").write_text(text.replace("lowest", ""))
    plan = load(**methods, ecgr=["ecgr"])
    assert {run.method: run.pipeline.training.optimizer.lr for run in plan.runs} == {
        "fedavg": 0.01,
        "alike": 0.01,
        "ecgr": 0.001,
    }
    assert load(**methods, prox={"method": ["fedprox"], "set": {"training.optimizer.lr": 0.5}})
    with pytest.raises(MedflError, match="has no row for prox on as_stated"):
        load(**methods, prox={"method": ["fedprox"], "set": {"select": "last"}})


def test_an_unfinished_grid_chooses_nothing(tuning):
    _, study, tables = tuning
    del tables.rows[study.runs[0].key]
    assert list(chosen(study, tables)) == [("as_stated", "ecgr")]


def test_no_file_and_a_bad_grid_are_refused(tmp_path):
    with pytest.raises(MedflError, match="a study with `grid` writes it"):
        read_choices(tmp_path / "chosen.csv")
    write_tiny(tmp_path)
    base = {"name": "t", "pipeline": str(tmp_path / "tiny.yaml"), "seeds": [1], "methods": {"fedavg": []}}
    for grid, said in (
        ({"values": [0.1, 0.01, 0.001]}, "rise, each once"),
        ({"values": RATES, "by": "held_out_mean_auroc"}, "chosen on validation data"),
    ):
        with pytest.raises(MedflError, match=said):
            load_study(base | {"grid": grid})
    with pytest.raises(MedflError, match=r"\{first: 1, count: 200\}"):
        load_study(base | {"seeds": {"from": 1, "count": 2}})
