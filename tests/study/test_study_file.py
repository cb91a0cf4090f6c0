"""The study file: its spellings, and the names it gives."""

import pytest
import yaml

from medfl.errors import MedflError
from medfl.study.study_file import leave_one_site_out, load_study
from tests.tiny import write_tiny


def study(folder, methods):
    """A study of the tiny pipeline with these methods and no brackets of its own."""
    write_tiny(folder)
    file = folder / "study.yaml"
    file.write_text(
        yaml.safe_dump({"name": "s", "pipeline": "tiny.yaml", "seeds": [1], "methods": methods, "brackets": False})
    )
    return load_study(file)


def test_the_old_spelling_of_a_baseline_loads_with_one_line_naming_the_new(tmp_path):
    old = study(tmp_path, {"alone": ["local_only"], "pooled": {"method": [{"name": "centralised"}]}, "fedavg": []})
    new = study(tmp_path, {"alone": {"baseline": "local_only"}, "pooled": {"baseline": "centralised"}, "fedavg": []})
    assert [run.key for run in old.runs] == [run.key for run in new.runs]
    assert [run.pipeline.baseline for run in old.runs] == ["local_only", None, "centralised"]
    assert old.notices == (
        "methods.alone: `method: [local_only]` is now written `baseline: local_only`",
        "methods.pooled: `method: [centralised]` is now written `baseline: centralised`",
    )
    assert new.notices == ()


def test_a_study_with_endpoints_goes_federation_by_federation(tmp_path):
    write_tiny(tmp_path)
    keys = {"name": "s", "pipeline": str(tmp_path / "tiny.yaml"), "seeds": [2, 1], "methods": {"fedavg": []}}
    keys |= {"brackets": False, "partitions": {"a": {}, "b": {"data.size": 16}}}
    plain, asked = load_study(keys), load_study(keys | {"endpoints": {"primary": [{"figure": "drift"}]}})
    assert [(run.partition, run.seed) for run in plain.in_turn] == [("a", 2), ("a", 1), ("b", 2), ("b", 1)]
    assert [(run.partition, run.seed) for run in asked.in_turn] == [("a", 2), ("b", 2), ("a", 1), ("b", 1)]
    assert [run.key for run in plain.runs] == [run.key for run in asked.runs]


def test_primary_comparisons_come_first_and_a_method_may_have_fewer_federations(tmp_path):
    write_tiny(tmp_path)
    methods = {
        "random": {"method": [{"name": "ecgr", "select": "random"}], "federations": 1},
        "fedavg": [],
        "ecgr": ["ecgr"],
    }
    keys = {
        "name": "s",
        "pipeline": str(tmp_path / "tiny.yaml"),
        "seeds": [2, 1],
        "methods": methods,
        "brackets": False,
    }
    keys |= {"endpoints": {"primary": [{"figure": "drift"}]}}
    keys |= {"comparisons": {"primary": [["ecgr", "fedavg"]], "secondary": [["ecgr", "random"]]}}
    found = [(run.seed, run.method) for run in load_study(keys).in_turn]
    assert found == [(2, "fedavg"), (2, "ecgr"), (1, "fedavg"), (1, "ecgr"), (2, "random")]
    methods["random"]["federations"] = 0
    with pytest.raises(MedflError, match=r"methods.random.federations"):
        load_study(keys)


def test_what_is_no_method_is_refused(tmp_path):
    for methods in ([], "fedavg", {"a": 3}, {"a": {"chain": []}}):
        with pytest.raises(MedflError, match=r"study.yaml: `methods"):
            study(tmp_path, methods)


def test_leaving_one_site_out_is_named_after_the_chain(tmp_path):
    method = [{"name": "fedprox", "mu": 0.1}, "ecgr"]
    sites = {"generate": {"count": 3, "held_out": 1, "patches": 24, "dirichlet_alpha": 5.0}}
    left = leave_one_site_out(write_tiny(tmp_path, method=method, sites=sites))
    assert left.methods == ["fedprox+ecgr"]
    assert [run.fold for run in left.runs] == ["site-01", "site-02", "site-03"]
