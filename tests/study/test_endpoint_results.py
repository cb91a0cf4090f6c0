"""Answers from values of runs: families, open runs, strata, what is primary."""

import numpy as np
import pytest

from medfl.study.endpoint_results import answers, questions
from medfl.study.endpoint_text import endpoint_sentences, endpoint_tables
from medfl.study.pool import Pool
from medfl.study.study_file import StudyFile

ENDPOINTS = {
    "primary": [
        {"figure": "held_out_mean_auroc", "test": "equivalence", "margin": 0.005},
        {"figure": "trend_free_oscillation", "scale": "log"},
    ],
    "secondary": [{"figure": "drift", "scale": "log"}],
}
STRATA, SEEDS = ("even", "skew"), range(12)
OWN = {(name, str(seed)): str(seed) for name in STRATA for seed in SEEDS}
GAINS = {"fedavg": 0.0, "ecgr": 0.001, "prox": 0.03}


def asked(**keys):
    methods = {name: {"method": []} for name in GAINS}
    return StudyFile(name="s", pipeline="p", seeds=list(SEEDS), methods=methods, **{"endpoints": ENDPOINTS} | keys)


def values(method, column):
    rng = np.random.default_rng([*map(ord, method)])
    level = np.random.default_rng(0).normal(0.8, 0.05, len(SEEDS))
    moved = level + GAINS[method] + rng.normal(0, 0.001, (2, len(SEEDS)))
    if column != "held_out_mean_auroc":
        moved = np.exp(level - (method == "ecgr") + rng.normal(0, 0.1, (2, len(SEEDS))))
    return {(name, str(seed)): float(moved[i, seed]) for i, name in enumerate(STRATA) for seed in SEEDS}


def found(file, open_runs=None):
    return answers(questions(file), values, Pool(OWN, STRATA), open_runs or {})


def test_primary_are_the_primary_endpoints_of_the_primary_comparisons():
    file = asked(comparisons={"primary": [["ecgr", "fedavg"]], "secondary": [["prox", "fedavg"]]})
    entries = found(file)
    assert [(e["rank"], e["method"], e["figure"]) for e in entries[:2]] == [
        ("primary", "ecgr", "held_out_mean_auroc"),
        ("primary", "ecgr", "trend_free_oscillation"),
    ]
    assert {e["rank"] for e in entries[2:]} == {"secondary"}
    assert len(entries) == 6
    assert [e["word"] for e in entries[:2]] == ["equivalent", "better"]
    assert [e["p_holm"] is None for e in entries] == [False] * 2 + [True] * 4
    worst = max(entries[0]["p"], entries[1]["p"])
    assert max(entries[0]["p_holm"], entries[1]["p_holm"]) == pytest.approx(
        max(worst, 2 * min(e["p"] for e in entries[:2]))
    )
    assert entries[3]["word"] == "better"  # prox, not equivalent
    assert not entries[3]["of_the_stated_test"]


def test_without_comparisons_all_methods_are_compared_with_the_first_and_all_of_that_is_primary():
    entries = found(asked())
    assert sum(e["rank"] == "primary" for e in entries) == 4
    assert {e["against"] for e in entries} == {"fedavg"}
    assert questions(StudyFile(name="s", pipeline="p", seeds=[1], methods={"a": {"method": []}})) == []


def test_estimates_are_ratios_and_strata_have_their_own():
    entry = next(e for e in found(asked()) if e["figure"] == "trend_free_oscillation" and e["method"] == "ecgr")
    assert entry["n"] == 12
    assert entry["estimate"] == pytest.approx(np.exp(-1), rel=0.15)
    assert entry["ci"][0] < entry["ci90"][0] < entry["estimate"] < entry["ci90"][1] < entry["ci"][1]
    assert list(entry["strata"]) == list(STRATA)
    assert np.prod([cell["estimate"] for cell in entry["strata"].values()]) ** 0.5 == pytest.approx(entry["estimate"])
    assert entry["interaction"]["df"] == [1, 11]


def test_nothing_is_decided_while_runs_are_open():
    file = asked(comparisons={"primary": [["ecgr", "fedavg"]]})
    entries = found(file, {"fedavg": 2, "prox": 9})
    assert {e["word"] for e in entries} == {"undecided"}
    study = {"unit": "federation", "pooled": list(STRATA), "endpoints": entries}
    assert "undecided, 2 runs are still to be done." in endpoint_sentences(study)[0]


def test_sentences_and_tables_say_it():
    study = {"unit": "federation", "pooled": list(STRATA), "endpoints": found(asked())}
    first, second, *_, last = endpoint_sentences(study)
    assert first.startswith("Primary: ecgr against fedavg, mean AUROC at held-out sites: equivalent within ±0.005 (")
    assert "12 federations of 2 strata" in first
    assert "trend-free oscillation: better (ratio 0." in second
    assert last.startswith("Everything else is secondary")
    primary, secondary, strata = endpoint_tables(study)
    assert primary.title == "primary endpoints, p adjusted for 4 (Holm)"
    assert secondary.title == "secondary endpoints, not adjusted"
    assert strata.columns[3:] == list(STRATA)
    assert endpoint_sentences({"endpoints": []}) == endpoint_tables({}) == []


def test_a_baseline_is_not_asked_how_updates_scatter():
    """Pooled training has one site a round, which has no drift."""
    file = asked(comparisons={"primary": [["ecgr", "fedavg"]], "secondary": [["fedavg", "centralised"]]})
    figures = {q.against: [] for q in questions(file)}
    for q in questions(file):
        figures[q.against].append(q.endpoint.figure)
    assert figures["fedavg"] == ["held_out_mean_auroc", "trend_free_oscillation", "drift"]
    assert figures["centralised"] == ["held_out_mean_auroc", "trend_free_oscillation"]


def test_a_study_may_be_secondary_throughout():
    file = asked(
        endpoints={"secondary": [{"figure": "held_out_mean_auroc", "test": "equivalence", "margin": 0.005}]},
        comparisons={"secondary": [["ecgr", "fedavg"], ["prox", "fedavg"]]},
    )
    study = {"unit": "seed", "pooled": list(STRATA), "endpoints": found(file)}
    assert {(e["rank"], e["p_holm"]) for e in study["endpoints"]} == {("secondary", None)}
    said = endpoint_sentences(study)
    assert [sentence.partition(":")[0] for sentence in said] == ["Secondary throughout"]
    answered, by_stratum = endpoint_tables(study)
    assert answered.title == "secondary endpoints, not adjusted"
    assert by_stratum.title.startswith("secondary endpoints by stratum")
    assert len(by_stratum.rows) == 2


def test_federations_that_only_one_of_two_methods_has_are_not_counted_as_without_a_figure():
    def fewer(method, column):
        return {
            repeat: None if (method, repeat) == ("prox", ("even", "0")) else value
            for repeat, value in values(method, column).items()
            if method == "ecgr" or int(repeat[1]) < 8
        }

    file = asked(comparisons={"primary": [["ecgr", "fedavg"]], "secondary": [["prox", "fedavg"]]})
    entries = answers(questions(file), fewer, Pool(OWN, STRATA), {})
    counts = {(e["method"], e["n"], e["without_figure"]) for e in entries}
    assert counts == {("ecgr", 8, 0), ("prox", 7, 1)}
