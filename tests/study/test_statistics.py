"""Statistics of a study against hand-derived numbers and scipy."""

import numpy as np
import pytest
from scipy import stats

from medfl.study.analysis import share_of_gap
from medfl.study.run_figures import over_folds
from medfl.study.statistics import Mean, difference, mean_over, paired, rank_biserial


def test_mean_and_t_interval_by_hand():
    found = mean_over([1.0, None, 2.0, 3.0])
    # Standard error 1 / sqrt(3); t(.975, 2 degrees of freedom) = 4.302653.
    assert (found.n, found.mean) == (3, 2.0)
    assert found.low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-5)
    assert found.high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-5)


def test_one_repeat_has_no_interval():
    assert mean_over([0.5]) == Mean(1, 0.5)
    assert mean_over([None]) == Mean(0, None)
    assert mean_over([0.5]).to_json()["ci"] is None


def test_the_t_interval_is_scipys():
    values = np.random.default_rng(0).normal(size=7)
    found = mean_over(values.tolist())
    expected = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


def test_an_interval_of_a_bounded_figure_stays_inside_its_bounds():
    two = mean_over([0.5, 0.985])
    assert two.high > 1.5  # as a plain t interval of two seeds has it
    cut = mean_over([0.5, 0.985], (0.0, 1.0))
    assert 0 < cut.low < cut.mean == two.mean < cut.high < 1
    # Far from the bounds it is the plain interval, and a difference of two such figures has -1 and 1 for bounds.
    plain, inside = mean_over([0.5, 0.501, 0.502]), mean_over([0.5, 0.501, 0.502], (0.0, 1.0))
    assert (inside.low, inside.high) == pytest.approx((plain.low, plain.high), abs=1e-5)
    one, other = {("p", "1"): 0.9, ("p", "2"): 0.8}, {("p", "1"): 0.1, ("p", "2"): 0.7}
    moved = difference(one, other, (0.0, 1.0))
    assert -1 < moved.low < 0.45 < moved.high < 1
    assert difference(one, other).high > 1
    assert mean_over([1.0, 1.0], (0.0, 1.0)).high == 1.0


def test_the_worst_over_folds_is_the_worst():
    assert over_folds("held_out_worst_auroc", [0.9, 0.4, None]) == 0.4
    assert over_folds("train_worst_ece", [0.1, 0.3]) == 0.3
    assert over_folds("held_out_mean_auroc", [0.9, 0.4]) == pytest.approx(0.65)
    assert over_folds("held_out_mean_auroc", [0.9, None]) is None
    assert over_folds("drift", [1.0, 2.0]) == 1.5


def test_rank_biserial_by_hand():
    assert rank_biserial(np.array([0.1, 0.2, 0.3])) == 1.0
    # Ranks 1 and 3 up, 2 down: (4 - 2) / 6; what does not differ is dropped.
    assert rank_biserial(np.array([0.1, -0.2, 0.3])) == pytest.approx(1 / 3)
    assert rank_biserial(np.array([0.0, 0.1, -0.2, 0.3])) == pytest.approx(1 / 3)
    assert rank_biserial(np.zeros(4)) is rank_biserial(np.array([])) is None


def test_the_repeat_is_the_unit_and_pairs_have_no_p():
    """Sites of a repeat share its model: five sites that all moved alike are one observation, and prove nothing."""
    pairs = {(("p", "1"), site): 0.9 for site in "abcde"}
    found = paired(pairs, dict.fromkeys(pairs, 0.8), difference({("p", "1"): 0.9}, {("p", "1"): 0.8})).to_json()
    assert not {"p", "p_holm"} & found.keys()
    assert (found["pairs"], found["wins"], found["difference"]) == (
        5,
        5,
        {"n": 1, "mean": pytest.approx(0.1), "ci": None},
    )


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_over_repeats_holds_its_level_where_sites_share_a_model(seeds):
    """Without a difference, with most of the variance between repeats, 5 % of intervals leave out zero."""
    rng = np.random.default_rng(seeds)
    outside, studies = 0, 2000
    for _ in range(studies):
        moved = rng.normal(0, 1, seeds) + rng.normal(0, 0.5, (4, seeds)).mean(0)  # of the repeat, and of its 4 sites
        mean = mean_over(moved.tolist())
        outside += not mean.low <= 0 <= mean.high
    assert abs(outside / studies - 0.05) < 4 * (0.05 * 0.95 / studies) ** 0.5


def test_pairs_count_what_both_have():
    method = {(("p", "1"), "a"): 0.9, (("p", "1"), "b"): 0.5, (("p", "2"), "a"): 0.7, (("p", "3"), "a"): 1.0}
    reference = {(("p", "1"), "a"): 0.8, (("p", "1"), "b"): 0.5005, (("p", "2"), "a"): 0.75}
    found = paired(method, reference, Mean(2, 0.0))
    assert found.pairs == 3
    assert (found.wins, found.ties, found.losses) == (1, 1, 1)
    assert found.by_site == {"a": (1, 0, 1), "b": (0, 1, 0)}


def test_differences_are_paired_by_repeat():
    found = difference({("p", "1"): 0.9, ("p", "2"): 0.8, ("p", "3"): 0.1}, {("p", "2"): 0.6, ("p", "1"): 0.8})
    assert (found.n, found.mean) == (2, pytest.approx(0.15))
    assert difference({("p", "1"): None}, {("p", "1"): 0.5}).mean is None


def test_a_difference_that_is_the_same_everywhere_is_certain():
    """The level differs between repeats by more than the methods do: only pairing sees the difference."""
    levels = {("p", str(seed)): 0.5 + 0.1 * seed for seed in range(5)}
    found = difference({repeat: level + 0.01 for repeat, level in levels.items()}, levels)
    assert found.low == pytest.approx(0.01)
    assert found.high == pytest.approx(0.01)
    assert mean_over(levels.values()).high - mean_over(levels.values()).low > 0.3


def test_share_of_the_gap():
    assert share_of_gap(0.8, {"local_only": 0.6, "centralised": 1.0}) == pytest.approx(0.5)
    assert share_of_gap(0.8, {"local_only": 0.998, "centralised": 1.0}) is None
    assert share_of_gap(0.8, {"centralised": 1.0}) is None
