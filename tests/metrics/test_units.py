"""Slides and patients: one score each from the scores of patches, one class each, intervals that count patients."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medfl.metrics.group_figures import group_figures
from medfl.metrics.measure import measure
from medfl.metrics.site_figures import site_figures
from medfl.metrics.units import MIXED, NO_CLASS, pooled_units, unit_entry, unit_notes, units_of

CLASSES = ("tumour", "normal")
SETTINGS = {"thresholds": {"tumour": 0.5}, "resamples": 200, "seed": 1, "bins": 15, "min_count": 1}


def drawn(patients: int = 30, seed: int = 0, patches: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, labels and patients of patches: a patient is of one class, and its patches are alike."""
    rng = np.random.default_rng(seed)
    labels, groups = np.repeat(np.arange(patients) % 2, patches), np.repeat(np.arange(patients), patches)
    logit = 1.5 * (labels == 0) - 0.75 + rng.normal(size=patients)[groups] + rng.normal(size=len(labels))
    score = 1 / (1 + np.exp(-logit))
    return np.stack([score, 1 - score], axis=1), labels, groups


def by_hand(probs: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.stack([probs[groups == g].mean(axis=0) for g in np.unique(groups)])


def test_the_mean_stands_for_a_patient_and_the_figures_are_those_of_patients():
    probs, labels, groups = drawn()
    patients = units_of(labels, groups, None, CLASSES)["patients"]
    assert patients.scores(probs) == pytest.approx(by_hand(probs, groups), abs=1e-12)
    figures = patients.measured(probs, probs, **SETTINGS).figures
    truth = labels[::6] == 0
    assert figures["auroc"] == pytest.approx(roc_auc_score(truth, by_hand(probs, groups)[:, 0]), abs=1e-12)
    assert (figures["n"], figures["n_groups"]) == (30, 30)
    assert figures["operating"]["tumour"]["positives"] == 15
    called = by_hand(probs, groups)[:, 0] >= 0.5
    assert figures["operating"]["tumour"]["sensitivity"] == pytest.approx(called[truth].mean())


def test_intervals_resample_patients():
    """They are those of as many independent patches; with each patch seen ten times over, they are the same."""
    probs, labels, groups = drawn()
    figures = units_of(labels, groups, None, CLASSES)["patients"].measured(probs, probs, **SETTINGS).figures
    alone = measure(by_hand(probs, groups), labels[::6], np.arange(30), CLASSES, resamples=200, seed=1)
    many = units_of(np.tile(labels, 10), np.tile(groups, 10), None, CLASSES)["patients"]
    repeated = many.measured(np.tile(probs, (10, 1)), np.tile(probs, (10, 1)), **SETTINGS).figures
    for key in ("auroc_ci", "balanced_accuracy_ci", "ece_ci", "nll_ci"):
        assert figures[key] == pytest.approx(alone[key], abs=1e-12)
        assert repeated[key] == pytest.approx(figures[key], abs=1e-9)


def test_slides_of_one_patient_are_not_independent():
    """Intervals over patients are wider than those that take three alike slides of each for three patients."""
    probs, labels, groups = drawn(40, patches=6)
    slides = np.arange(len(labels)) // 2
    made = units_of(labels, groups, slides, CLASSES)
    assert list(made) == ["slides", "patients"]
    figures = made["slides"].measured(probs, probs, **SETTINGS).figures
    assert (figures["n"], figures["n_groups"]) == (120, 40)
    alone = units_of(labels, slides, None, CLASSES)["patients"].measured(probs, probs, **SETTINGS).figures
    assert figures["auroc"] == pytest.approx(alone["auroc"], abs=1e-12)
    assert np.ptp(figures["auroc_ci"]) > 1.2 * np.ptp(alone["auroc_ci"])


def test_the_most_malignant_patches_find_a_small_tumour():
    """One patch in eight shows it: the mean over all hides what the mean of two tells."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 8)
    score = rng.uniform(0.02, 0.3, len(groups))
    sick = np.arange(40) % 2 == 0
    score[np.flatnonzero(sick) * 8 + rng.integers(0, 8, 20)] = 0.5
    labels = np.where(score == 0.5, 0, 1)
    probs = np.stack([score, 1 - score], axis=1)
    auroc = {}
    for top in (0, 2):
        patients = units_of(labels, groups, None, CLASSES, ("tumour",), top)["patients"]
        assert (patients.labels == 0).tolist() == sick.tolist()
        auroc[top] = patients.measured(probs, probs, **SETTINGS).figures["auroc"]
        wanted = [np.sort(score[groups == g])[-(top or 8) :].mean() for g in range(40)]
        assert patients.scores(probs)[:, 0] == pytest.approx(wanted, abs=1e-12)
        assert patients.scores(probs).sum(axis=1) == pytest.approx(1)
    assert auroc[2] == 1.0
    assert auroc[0] < 0.95


def test_the_class_of_a_patient_whose_patches_differ():
    classes = ("adenoma", "carcinoma", "sarcoma", "normal")
    labels = np.array([3, 3, 3, 1, 1, 2, 2, 3, 0, 3, 3, 0, 2, 2, 1, 2])
    groups = np.repeat([0, 1, 2, 3, 4], [4, 4, 4, 2, 2])
    malignant = units_of(labels, groups, None, classes, ("carcinoma", "sarcoma"))["patients"]
    assert [classes[label] for label in malignant.labels] == ["carcinoma", "sarcoma", "adenoma", "sarcoma", "carcinoma"]
    unknown = units_of(labels, groups, None, classes)["patients"]
    assert unknown.labels.tolist() == [NO_CLASS, NO_CLASS, NO_CLASS, 2, NO_CLASS]
    probs = np.full((len(labels), 4), 0.25)
    figures = unknown.measured(probs, probs, **{**SETTINGS, "thresholds": {}}).figures
    assert (figures["n"], figures["auroc"], figures["left_out"]) == (0, None, MIXED)
    assert unknown.histograms(probs, 1, 1.0).positive.sum() == 0
    (note,) = unit_notes({"ward": {"n": 16, "n_groups": 5, "patients": figures}}, "patients")
    assert "ward" in note
    assert "task.malignant" in note


def test_patients_of_several_sites_are_one_set_of_patients():
    """Site c has a patch of each patient, so that its patients are its patches; at d nothing says what decides."""
    sites, sums, scores, truth = {}, {}, [], []
    for seed, (name, patches) in enumerate({"a": 6, "b": 4, "c": 1}.items()):
        probs, labels, groups = drawn(24, seed, patches)
        whole = site_figures(probs, probs, labels, groups, CLASSES, **SETTINGS)
        sites[name], sums[name] = whole.figures, whole.sums
        for key, units in units_of(labels, groups, None, CLASSES).items():
            own = units.measured(probs, probs, **SETTINGS)
            sites[name][key], sums[name][key] = own.figures, own.sums
        scores.append(by_hand(probs, groups))
        truth.append(labels[::patches])
    sites["d"] = sites["a"] | {"patients": {"n": 0, "n_groups": 0, "left_out": MIXED}}
    sums["d"] = sums["a"]
    merged = pooled_units(sites, sums, CLASSES)
    assert list(merged) == ["patients"]
    patients = merged["patients"]
    assert (patients["sites"], patients["n"]) == (["a", "b", "c"], 72)
    exact = roc_auc_score(np.concatenate(truth) == 0, np.concatenate(scores)[:, 0])
    assert patients["auroc"] == pytest.approx(exact, abs=patients["auroc_resolution"] + 1e-12)
    assert patients["auroc_resolution"] < 0.02
    assert pooled_units({"c": sites["c"]}, sums, CLASSES) == {}


def test_few_patients_are_not_told():
    """What each bin of a histogram counts are patients; a class of few of them has no figure of its own."""
    probs, labels, groups = drawn(12)
    few = groups < 2 * 2  # two of each class
    few |= labels == 0
    patients = units_of(labels[few], groups[few], None, CLASSES)["patients"]
    counts = patients.histograms(probs[few], 5, 1.0)
    assert counts.positive.sum() == counts.negative.sum() == 0
    figures = patients.measured(probs[few], probs[few], **{**SETTINGS, "min_count": 5}).figures
    assert figures["support"]["normal"] == {"patches": None, "groups": None}
    assert figures["operating"]["tumour"]["sensitivity"] is None
    whole = units_of(labels, groups, None, CLASSES)["patients"].histograms(probs, 5, 0.0)
    filled = whole.positive[whole.positive > 0]
    assert filled.min() >= 5
    assert filled.sum() == 12


def test_nothing_is_added_where_each_patch_is_a_patient():
    probs, labels, _ = drawn()
    alone = np.arange(len(labels))
    assert not units_of(labels, alone, None, CLASSES)
    entry = {"role": "held_out", **site_figures(probs, probs, labels, alone, CLASSES).figures}
    assert unit_entry(entry, "patients") is entry
    _, _, groups = drawn()
    patients = units_of(labels, groups, None, CLASSES)["patients"].measured(probs, probs, **SETTINGS).figures
    several = {"role": "held_out", **site_figures(probs, probs, labels, groups, CLASSES).figures, "patients": patients}
    over = group_figures({"ward": several, "biopsies": entry}, "held_out")
    assert over["patients"]["sites"] == ["biopsies", "ward"]
    assert over["patients"]["mean_auroc"] == pytest.approx((entry["auroc"] + patients["auroc"]) / 2)
    assert "patients" not in group_figures({"biopsies": entry}, "held_out")
