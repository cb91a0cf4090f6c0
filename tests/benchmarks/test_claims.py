"""The page of results says what the committed tables say."""

import pytest

from benchmarks import claims
from benchmarks.pages import rewritten
from medfl.study.statistics import Mean


def test_every_generated_part_of_the_page_is_that_of_the_tables():
    text = claims.PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in text for name in claims.PARTS)
    assert rewritten(text, claims.PARTS) == text


def test_every_shipped_study_has_its_line_on_the_page():
    """Its line counts the runs that its file asks for, so every file has been loaded by the test above."""
    shipped = {path.stem for path in (claims.ROOT / "pipelines" / "studies").glob("*.yaml")}
    with_pages_of_their_own = {"benchmark", "mitosis", "mitosis_settings"}
    assert shipped == {*claims.STUDIES, "base", *with_pages_of_their_own}


def test_verdicts_by_hand():
    assert claims.verdict(Mean(5, 0.02, 0.01, 0.03), +1) == "holds"
    assert claims.verdict(Mean(5, 0.02, 0.01, 0.03), -1) == "does not"
    assert claims.verdict(Mean(5, -0.02, -0.03, -0.01), -1) == "holds"
    assert claims.verdict(Mean(5, 0.02, -0.01, 0.05), +1) == "undecided"
    assert claims.verdict(Mean(1, 0.02), +1) == "undecided"


def test_the_model_that_is_there_after_some_virtual_time():
    """A record's figures are of the model entering its round, which was there when the round before ended."""
    curve = [
        {"partition": "p", "seed": "1", "method": "m", "round": str(t), "mean_auroc": auroc, "virtual_seconds": clock}
        for t, (auroc, clock) in enumerate([("0.5", "10"), ("0.7", "20"), ("", "30"), ("0.9", "30")])
    ]
    runs = claims.Runs([], [], curve)
    found = [claims.at_time(seconds)(runs, "m").get(("p", "1")) for seconds in (0, 9.9, 10, 29, 30)]
    assert found == [0.5, 0.5, 0.7, 0.7, 0.9]


def test_area_leaves_the_initial_model_out():
    curve = [
        {"partition": "p", "seed": "1", "method": "m", "round": str(t), "mean_auroc": auroc}
        for t, auroc in enumerate(["0.5", "0.7", "0.9"])
    ]
    assert claims.area(claims.Runs([], [], curve), "m") == {("p", "1"): pytest.approx(0.8)}
