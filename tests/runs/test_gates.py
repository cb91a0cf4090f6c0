"""Gates given at the command line: read in the words of `registry.gates`, and never looser than the pipeline's."""

import pytest

from medfl import config
from medfl.errors import MedflError
from medfl.runs.gates import bounds, gate_results, gates_text, passed_bounds, read_gates, stricter


def test_bounds_and_files_are_read_and_the_stricter_counts(tmp_path):
    (tmp_path / "a=b.yaml").write_text("held_out_auroc_min: 0.9\nheld_out_ece_max: 0.1\n")
    gates = read_gates([str(tmp_path / "a=b.yaml"), "held_out_auroc_min=0.8", " worst_site_auroc_min = 0.7"])
    assert bounds(gates) == {"held_out_auroc_min": 0.9, "held_out_ece_max": 0.1, "worst_site_auroc_min": 0.7}
    assert bounds(read_gates([])) == {}
    pipeline = config.Gates(held_out_auroc_min=0.85, held_out_ece_max=0.2)
    for one, other in ((pipeline, gates), (gates, pipeline)):
        assert bounds(stricter(one, other)) == bounds(gates)
    assert gates_text(bounds(pipeline)) == "held_out_auroc_min 0.85, held_out_ece_max 0.2"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("auroc_min=0.9", 'is not a key of this file. Did you mean "held_out_auroc_min"'),
        ("held_out_auroc_min=1.5", "`held_out_auroc_min`: input should be less than or equal to 1"),
        ("held_out_auroc_min=high", "`held_out_auroc_min`: input should be a valid number"),
        ("held_out_auroc_min=", "it states no gate; write KEY=BOUND, or a YAML file of such keys: held_out_auroc_min"),
        ("held_out_auroc_min=[", "the bound is not valid YAML"),
        ("nowhere.yaml", "There is no gates file"),
    ],
)
def test_what_is_no_gate_is_refused(entry, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MedflError) as refusal:
        read_gates([entry])
    assert says in str(refusal.value)
    assert entry in str(refusal.value)


@pytest.mark.parametrize("tag", [None, "", "no JSON", "[1]", '{"held_out_auroc_min": 7}', '{"other": 1}'])
def test_a_tag_that_says_nothing_counts_for_nothing(tag):
    assert passed_bounds(config.Gates(held_out_ece_max=0.2), tag) == {"held_out_ece_max": 0.2}
    assert passed_bounds(None, tag) == {}


def summary_with(**subgroups):
    """A result of one held-out site with these subgroups of one column: value -> interval of its AUROC."""
    values = {value: {"auroc_ci": interval} for value, interval in subgroups.items()}
    entry = {"role": "held_out", "subgroups": {"scanner": {"values": values, "withheld": 2}}} if values else {}
    return {"sites": {"east": {"role": "held_out", **entry}}, "held_out": {}, "train_sites": {}}


@pytest.mark.parametrize(
    ("subgroups", "value", "says"),
    [
        ({"a": [0.9, 1], "b": [0.7, 0.9]}, 0.7, "scanner b at the held-out site east (2 subgroups are withheld)"),
        ({"a": [0.9, 1], "not stated": [0.1, 0.2]}, 0.9, "scanner a at the held-out site east"),
        ({"a": [0.9, 1], "b": None}, None, "AUROC of scanner b at the held-out site east is not available"),
        ({"not stated": [0.9, 1]}, None, "of a subgroup at the held-out site east is not available"),
        ({}, None, "of a subgroup at the held-out site east is not available"),
    ],
)
def test_the_worst_subgroup_of_any_held_out_site_decides(subgroups, value, says):
    (result,) = gate_results(summary_with(**subgroups), config.Gates(worst_subgroup_auroc_min=0.8))
    assert (result.value, result.passed) == (value, value is not None and value >= 0.8)
    assert says in str(result)
