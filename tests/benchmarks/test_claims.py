"""The pages of results say what the committed tables say."""

import csv
import math

import pytest
import yaml

from benchmarks import claims, designed, earlier, result_figures
from benchmarks.pages import rewritten
from benchmarks.tables import ROOT, Runs


@pytest.mark.parametrize("page", claims.PAGES, ids=lambda page: page.name)
def test_every_generated_part_of_a_page_is_that_of_the_tables(page):
    text = page.read_text(encoding="utf-8")
    assert rewritten(text, claims.PAGES[page]) == text


def test_every_shipped_study_has_its_page():
    shipped = {path.stem for path in (ROOT / "pipelines" / "studies").glob("*.yaml")}
    with_pages_of_their_own = {"benchmark", "mitosis", "mitosis_settings"}
    assert shipped == {*earlier.STUDIES, "base", *with_pages_of_their_own}


def test_the_figures_of_the_page_are_there_and_drawn_from_the_tables(tmp_path):
    page = claims.SUMMARY.read_text(encoding="utf-8")
    result_figures.draw(tmp_path)
    for name in result_figures.FIGURES:
        assert f"(images/{name}.svg)" in page
        assert (result_figures.IMAGES / f"{name}.svg").is_file()
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000
    assert result_figures.remedies()["frozen"]["none"] == pytest.approx(0.072, abs=0.001)  # as docs/adaptation.md


def test_the_earlier_claims_count_a_seed_once_and_the_shipped_sites_never():
    claim = next(claim for claim in earlier.CLAIMS if (claim.method, claim.other) == ("ecgr", "fedavg"))
    values, strata = earlier.evidence(claim)
    assert len(values) == 5
    assert "shipped" not in strata
    rows = Runs.load("verdict").runs
    auroc = {(row["method"], row["partition"], row["seed"]): float(row["held_out_mean_auroc"]) for row in rows}
    gains = [auroc["ecgr", name, "1"] - auroc["fedavg", name, "1"] for name in strata]
    assert values[0] == pytest.approx(sum(gains) / len(gains))


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A designed study of two strata and six federations, all of it done but one run of a secondary comparison."""
    study = {
        "name": "few",
        "pipeline": "p.yaml",
        "seeds": {"first": 1, "count": 6},
        "brackets": False,
        "endpoints": {"primary": [{"figure": "held_out_mean_auroc", "test": "equivalence", "margin": 0.01}]},
        "comparisons": {"primary": [["ecgr", "fedavg"]], "secondary": [["prox", "fedavg"]]},
        "methods": {"fedavg": [], "ecgr": ["ecgr"], "prox": {"method": ["fedprox"], "federations": 5}},
        "partitions": {"a": {}, "b": {}},
    }
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(study))
    rows = [
        {
            "partition": part,
            "method": method,
            "seed": str(seed),
            "held_out_mean_auroc": 0.8 + gain + 0.001 * seed * gain,
        }
        for part, extra in (("a", 0.0), ("b", 0.002))
        for method, gain in (("fedavg", 0.0), ("ecgr", 0.001 + extra), ("prox", 0.1))
        for seed in range(1, 7 if method != "prox" else 6)
    ]
    (tmp_path / "few").mkdir()
    with (tmp_path / "few" / "runs.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows[:-1])
    monkeypatch.setattr(designed, "STUDIES", tmp_path)
    monkeypatch.setattr("benchmarks.tables.RESULTS", tmp_path)
    monkeypatch.setitem(designed.SETTINGS, "few", "few of them")
    return "few"


def test_the_answers_of_a_designed_study_from_its_table_alone(few):
    primary = designed.entry(few, "ecgr", "fedavg", "held_out_mean_auroc")
    assert (primary["n"], primary["word"], primary["open_runs"]) == (6, "equivalent", 0)
    assert primary["estimate"] == pytest.approx(0.002, abs=1e-4)
    other = designed.entry(few, "prox", "fedavg", "held_out_mean_auroc")
    assert (other["n"], other["word"], other["open_runs"]) == (4, "undecided", 1)
    assert "few of them. Primary: ecgr against fedavg" in designed.sentences(few)
    assert "to be done: prox against fedavg." in designed.tables(few)
    assert "| prox |" not in designed.tables(few)
    assert math.isclose(
        designed.entry(few, "ecgr", "fedavg", "held_out_mean_auroc")["strata"]["b"]["estimate"], 0.003, rel_tol=0.02
    )


def test_the_model_that_is_there_after_some_virtual_time():
    """A record's figures are of the model entering its round, which was there when the round before ended."""
    curve = [
        {"partition": "p", "seed": "1", "method": "m", "round": str(t), "mean_auroc": auroc, "virtual_seconds": clock}
        for t, (auroc, clock) in enumerate([("0.5", "10"), ("0.7", "20"), ("", "30"), ("0.9", "30")])
    ]
    runs = Runs([], [], curve)
    found = [earlier.at_time(seconds)(runs, "m").get(("p", "1")) for seconds in (0, 9.9, 10, 29, 30)]
    assert found == [0.5, 0.5, 0.7, 0.7, 0.9]


def test_area_leaves_the_initial_model_out():
    curve = [
        {"partition": "p", "seed": "1", "method": "m", "round": str(t), "mean_auroc": auroc}
        for t, auroc in enumerate(["0.5", "0.7", "0.9"])
    ]
    assert earlier.area(Runs([], [], curve), "m") == {("p", "1"): pytest.approx(0.8)}
