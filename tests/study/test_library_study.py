"""A study planned, carried out and read by a program."""

import pytest

import medfl
from medfl.errors import MedflError
from tests.tiny import tiny

FILE = {
    "name": "two",
    "pipeline": tiny(training={"rounds": 1}),
    "seeds": [1],
    "methods": {"fedavg": [], "fedprox": {"method": ["fedprox"], "set": {"training.optimizer.lr": 0.01}}},
    "brackets": False,
}


def test_a_study_of_a_mapping(tmp_path):
    study = medfl.Study(FILE, out=tmp_path / "two", training__batch_size=16)
    assert [title.split(" · ")[1] for title in study.missing()] == ["fedavg", "fedprox"]
    with pytest.raises(MedflError, match=r"call run\(\) first"):
        _ = study.findings
    lines: list[str] = []
    assert study.run(say=lines.append) is study
    assert repr(study) == "Study('two', 2 runs, 0 missing)"
    assert len([line for line in lines if line.endswith(" s")]) == 2
    runs, sites, curves = study.to_pandas()
    assert list(runs["method"]) == ["fedavg", "fedprox"]
    assert runs["held_out_mean_auroc"].dtype == float
    assert runs["seed"].tolist() == [1, 1]
    assert set(sites["role"]) == {"train", "held_out"}
    assert curves["round"].max() == 1
    found = study.findings["partitions"]["as_stated"]["methods"]["fedavg"]["figures"]["held_out_mean_auroc"]["mean"]
    assert found == pytest.approx(runs["held_out_mean_auroc"][0])
    assert (tmp_path / "two" / "report.html").is_file()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": {}}, "method"),
        ({"pipeline": "nowhere.yaml"}, "there is no pipeline file"),
        ({"methods": {"x": ["fedpro"]}}, "there is no method 'fedpro'"),
    ],
)
def test_what_is_wrong_is_said_when_it_is_planned(changes, sentence):
    with pytest.raises(MedflError, match=sentence):
        medfl.Study(FILE | changes)
