"""The tables of a study: what a plan does not name any more is kept, and is there for one that names it again."""

from types import SimpleNamespace

from medfl.study.study_tables import RunRows, Tables


def planned(*seeds):
    return [
        SimpleNamespace(key=f"k{seed}", identity={"partition": "even", "method": "fedavg", "seed": seed, "fold": ""})
        for seed in seeds
    ]


def rows(seed):
    return RunRows({"auroc": f"0.{seed}"}, [{"site": "a"}, {"site": "b"}], [{"round": "0"}])


def test_runs_that_are_planned_no_more_are_kept_and_come_back(tmp_path):
    Tables({f"k{seed}": rows(seed) for seed in (1, 2, 3)}).save(tmp_path, planned(1, 2, 3))
    whole = {name: (tmp_path / f"{name}.csv").read_text() for name in ("runs", "sites", "curves")}
    assert not (tmp_path / "earlier").exists()
    Tables.load(tmp_path).save(tmp_path, planned(1))
    assert (tmp_path / "runs.csv").read_text().splitlines()[1:] == ["even,fedavg,1,,k1,0.1"]
    assert len((tmp_path / "earlier" / "sites.csv").read_text().splitlines()) == 5
    Tables.load(tmp_path).save(tmp_path, planned(1))  # no second copy
    assert len((tmp_path / "earlier" / "runs.csv").read_text().splitlines()) == 3
    again = Tables.load(tmp_path)
    assert again.rows.keys() == {"k1", "k2", "k3"}
    again.save(tmp_path, planned(1, 2, 3))
    assert {name: (tmp_path / f"{name}.csv").read_text() for name in whole} == whole
    assert len((tmp_path / "earlier" / "runs.csv").read_text().splitlines()) == 1
