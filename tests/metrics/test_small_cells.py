"""Nothing that leaves a site stands on fewer source groups than the floor; with a floor of 1 nothing changes."""

import json

import numpy as np
import pytest

from medfl.metrics.histograms import EDGES, ScoreHistograms
from medfl.metrics.measure import measure
from medfl.metrics.site_figures import pooled, site_figures
from medfl.metrics.small_cells import SmallCells, cell_means, disclosed_rows, withheld
from medfl.metrics.targets import target_scores, target_truth

CLASSES = ("a", "b", "c")
FLOOR = 5


def site(seed, n=90, groups=30, rare=None):
    """Probabilities, labels and groups; `rare` are the patches of class c, each of a group of its own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2 if rare is not None else 3, n)
    group = rng.integers(0, groups, n)
    if rare:
        labels[:rare], group[:rare] = 2, np.arange(rare) + 1000
    probs = rng.dirichlet(np.ones(3), n) + 1.5 * np.eye(3)[labels] * rng.random((n, 1))
    return probs / probs.sum(axis=1, keepdims=True), labels, group


def told(seed, floor=FLOOR, **kwargs):
    probs, labels, group = site(seed, **kwargs)
    thresholds = dict.fromkeys((*CLASSES, "malignant"), 0.4)
    said = site_figures(
        probs,
        probs,
        labels,
        group,
        CLASSES,
        malignant=("a", "b"),
        thresholds=thresholds,
        resamples=20,
        min_count=floor,
    )
    return said, probs, labels, group


@pytest.mark.parametrize("seed", range(8))
def test_no_bin_of_scores_holds_fewer_groups_than_the_floor(seed):
    """By cells of neighbours: each bin that is not empty holds whole cells, each of at least five groups."""
    said, probs, labels, group = told(seed, groups=(8, 12, 20, 40, 90)[seed % 5])
    scores = target_scores(probs, CLASSES, ("a", "b"))
    truth = target_truth(labels, CLASSES, ("a", "b"))
    cells = SmallCells(FLOOR, labels, group, CLASSES, ("a", "b"))
    pooled_scores, shown = cells.scores(scores), cells.shown_targets()
    for m in np.flatnonzero(shown):
        for side in (truth[:, m], ~truth[:, m]):
            for value in np.unique(pooled_scores[side, m]):
                behind = side & (pooled_scores[:, m] == value)
                assert len(np.unique(group[behind])) >= FLOOR
                assert scores[behind, m].min() <= value <= scores[behind, m].max()
    counted = ScoreHistograms.from_lists(said.curves["histograms"])
    assert (counted.positive.sum(axis=1) == np.where(shown, truth.sum(axis=0), 0)).all()
    assert set(np.flatnonzero(shown)) == {m for m, roc in enumerate(said.curves["roc"].values()) if roc is not None}


def test_single_scores_cannot_be_had_back():
    """What 0.1 gave away: every score of a small site to within its bin, with the label."""

    def bins_told(floor):
        said, probs, labels, _ = told(3, floor, n=24, groups=12)
        positive = np.array(said.curves["histograms"]["positive"][0])
        scores = probs[labels == 0, 0]
        own = np.searchsorted(EDGES[1:-1], scores, side="right")
        return np.count_nonzero(positive), len(set(own.tolist()))

    assert bins_told(1)[0] == bins_told(1)[1]
    assert bins_told(FLOOR)[0] <= 2 < bins_told(FLOOR)[1]


def test_figures_of_all_patches_stay_exact_and_small_classes_are_withheld():
    said, probs, labels, group = told(1, rare=3)
    plain = measure(probs, labels, group, CLASSES, resamples=20)
    for key in ("n", "n_groups", "auroc", "accuracy", "ece", "brier", "nll", "auroc_ci"):
        assert said.figures[key] == plain[key]
    # One class alone would follow from the total: the smallest other is withheld beside it.
    small = said.figures["withheld"]["classes"]
    assert len(small) == 2
    assert "c" in small
    for name in small:
        assert said.figures["support"][name] == {"patches": None, "groups": None}
        assert said.figures["auroc_per_class"][name] is None
        assert said.curves["roc"][name] is None
        assert said.figures["operating"][name]["positives"] is None
        assert said.figures["operating"][name]["sensitivity"] is None
        assert said.figures["confusion"][CLASSES.index(name)] == [None] * 3
    json.dumps(said.figures, allow_nan=False)


def test_calibration_bins_are_joined_until_each_holds_enough_groups():
    said = told(2, n=60, groups=25)[0]
    plain = told(2, 1, n=60, groups=25)[0]
    top, exact = said.sums["after"]["top"], plain.sums["after"]["top"]
    assert sum(top["count"]) == sum(exact["count"]) == 60
    assert np.count_nonzero(top["count"]) < np.count_nonzero(exact["count"])
    assert min(count for count in top["count"] if count) >= FLOOR
    assert sum(top["confidence_sum"]) == pytest.approx(sum(exact["confidence_sum"]))
    assert said.figures["reliability"]["count"] == top["count"]
    for edge, count, confidence in zip(
        np.linspace(0, 1, 16)[1:], top["count"], said.figures["reliability"]["confidence"], strict=True
    ):
        assert confidence is None or edge - 1 / 15 <= confidence <= edge, count


def test_merged_sums_keep_accuracy_brier_and_nll():
    sites = {str(seed): told(seed)[0].sums for seed in range(3)}
    exact = {str(seed): told(seed, 1)[0].sums for seed in range(3)}
    coarse, fine = pooled(sites, CLASSES), pooled(exact, CLASSES)
    for key in ("n", "accuracy", "brier", "nll"):
        assert coarse[key] == pytest.approx(fine[key])
    assert coarse["auroc"] == pytest.approx(fine["auroc"], abs=0.03)
    assert sum(coarse["left_out"]) + np.sum(coarse["confusion"]) == coarse["n"]
    assert fine["left_out"] == [0, 0]
    assert coarse["auroc_resolution"] is None
    assert fine["auroc_resolution"] > 0


def test_a_floor_of_one_changes_nothing():
    probs, labels, group = site(5)
    measured = measure(probs, labels, group, CLASSES, resamples=20)
    assert SmallCells(1, labels, group, CLASSES).figures(measured, probs) == measured
    assert cell_means(probs[:, 0], group, 1) is probs[:, 0] or (cell_means(probs[:, 0], group, 1) == probs[:, 0]).all()
    assert "withheld" not in told(5, 1)[0].figures


def test_without_patches_there_is_nothing_to_withhold():
    empty = np.empty(0, dtype=np.int64)
    said = site_figures(np.empty((0, 3)), np.empty((0, 3)), empty, empty, CLASSES, resamples=20, min_count=FLOOR)
    assert "withheld" not in said.figures
    assert said.figures["n"] == 0
    assert set(said.curves["roc"].values()) == {None}


def test_which_cells_are_withheld():
    assert withheld([9, 8, 7], 5) == []
    assert withheld([9, 0, 7], 5) == []
    assert withheld([9, 3, 7], 5) == [1, 2]
    assert withheld([1, 3, 7], 5) == [0, 1]
    assert withheld([3, 0], 5) == [0]
    assert withheld([3, 9], 1) == []


def test_a_threshold_lies_below_the_cells_it_is_to_hold():
    probs, labels, group = site(4)
    scores = target_scores(probs, CLASSES, ())
    cells = SmallCells(FLOOR, labels, group, CLASSES)
    at_means = cells.histograms(scores).threshold(0.95)
    below = cells.histograms(scores, 1.0).threshold(0.95)
    assert (below < at_means).all()
    share = [(scores[labels == c, c] >= below[c]).mean() for c in range(3)]
    assert min(share) > 0.85


def test_rows_of_small_classes_are_blank():
    row = {"site": "s", "role": "train", "split": "val", "digest": "d"}
    rows = [
        row | {"class": name, "groups": groups, "patches": 2 * groups}
        for name, groups in (("a", 2), ("b", 9), ("c", 6), ("d", 0))
    ]
    told_ = disclosed_rows(rows, FLOOR)
    assert [(r["groups"], r["patches"]) for r in told_] == [("", ""), (9, 18), ("", ""), (0, 0)]
    assert disclosed_rows(rows, 1) == rows
