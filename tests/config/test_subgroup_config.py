"""Which columns may tell subgroups apart; what names none stays byte for byte what it was."""

import pytest

from medfl.config.pipeline_config import Evaluation
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from medfl.study.content_key import content_key
from tests.tiny import write_tiny


def test_columns_with_and_without_edges():
    assert Evaluation(subgroups=["scanner", {"age": [50, 65.5]}]).columns == {"scanner": (), "age": (50.0, 65.5)}
    assert Evaluation().columns == {}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[label]", "means something to every table"),
        ("[Source Group]", "means something to every table"),
        ("[scanner, Scan-ner]", "scan-ner stands twice"),
        ("[{age: [65, 50]}]", "the edges of age must rise"),
        ("[{age: []}]", "at least one edge"),
        ("[' ']", "the name of a column"),
        ("[]", "`evaluation.subgroups`"),
        ("scanner", "`evaluation.subgroups`"),
    ],
)
def test_what_tells_no_subgroups_apart_is_refused(value, says, tmp_path):
    with pytest.raises(MedflError) as refusal:
        load_pipeline(write_tiny(tmp_path), [f"evaluation.subgroups={value}"])
    assert says in str(refusal.value)


def test_without_the_key_a_pipeline_says_nothing_of_it_and_a_study_knows_its_runs_by_the_rest(tmp_path):
    file = write_tiny(tmp_path)
    plain, stated = load_pipeline(file), load_pipeline(file, ["evaluation.subgroups=[scanner]"])
    assert "subgroups" not in dump_pipeline(plain)
    assert content_key(plain) == content_key(stated)


def test_the_gate_on_the_worst_subgroup_needs_subgroups(tmp_path):
    gate = ["registry={name: m, gates: {worst_subgroup_auroc_min: 0.8}}"]
    with pytest.raises(MedflError, match=r"worst_subgroup_auroc_min.*`evaluation.subgroups`"):
        load_pipeline(write_tiny(tmp_path), gate)
    load_pipeline(write_tiny(tmp_path), [*gate, "evaluation.subgroups=[scanner]"])
