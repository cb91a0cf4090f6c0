"""Sums over source groups merge exactly; an alarm is rare where nothing has changed and sure where something has."""

import numpy as np
import pytest

from medfl.metrics import drift
from medfl.metrics.drift import LEVEL, Moments, between_shift, shift, stratified_shift


def test_sums_of_two_places_are_those_of_all_groups():
    values = np.random.default_rng(0).normal(0.3, 0.2, 50)
    one, other = Moments.of(values[:17]), Moments.of(values[17:])
    assert one + other == other + one == Moments.of(values)
    assert Moments.of(values).mean == pytest.approx(values.mean(), abs=1e-6)
    assert Moments.of(values).squares == pytest.approx(50 * values.var(), rel=1e-4)
    assert Moments.of(values).cubes == pytest.approx(((values - values.mean()) ** 3).sum(), abs=1e-4)


TAILS = [(2, 1, 0.295167), (5, 4, 0.00749043), (2, 5, 0.101939), (5, 8, 0.00105283)]


@pytest.mark.parametrize(("t", "df", "tail"), TAILS)
def test_tails_of_student(t, df, tail):
    assert drift._t_quantile(tail, df) == pytest.approx(t, rel=1e-5)


def looks(rng, groups, effect=0.0):
    """Figures of a site whose groups have one of three classes, one of them rare: scores near 0 and 1."""
    label = rng.choice(3, groups, p=[0.05, 0.35, 0.6])
    p = np.full((groups, 3), 0.03)
    p[np.arange(groups), label] = 0.94
    p = p + rng.normal(0, 0.01, p.shape)
    stain = rng.lognormal(0, 0.25, (groups, 6)) + 0.3 * label[:, None] + effect
    return [Moments.of(column) for column in np.column_stack([p.max(axis=1), p, stain]).T]


@pytest.mark.parametrize(("groups", "before"), [(8, 60), (40, 12)])
def test_without_drift_alarms_keep_their_level(groups, before):
    rng, repeats, alarms = np.random.default_rng(1), 100, 0
    for _ in range(repeats):
        new, old = looks(rng, groups), looks(rng, before)
        alarms += any(shift(a, [b], LEVEL / len(new)).alarm for a, b in zip(new, old, strict=True))
    assert alarms <= 4  # at 1 % of 100 repeats more are 1 of 300


def test_a_site_like_other_sites_gives_no_alarm_though_it_differs_from_each():
    rng, repeats, alarms, nearest = np.random.default_rng(2), 30, 0, 0
    for _ in range(repeats):
        sites = [looks(rng, 20, rng.normal(0, 0.5)) for _ in range(6)]
        new, *others = sites
        level = LEVEL / len(new)
        alarms += any(
            shift(a, list(b), level, between=True).alarm for a, b in zip(new, zip(*others, strict=True), strict=True)
        )
        nearest += any(shift(a, [b], level).alarm for a, b in zip(new, others[0], strict=True))
    assert alarms <= 2
    assert nearest > 15


def test_drift_is_found_and_its_interval_holds_it():
    rng = np.random.default_rng(3)
    found = shift(looks(rng, 30, 0.5)[-1], [looks(rng, 60)[-1]], LEVEL / 10)
    assert found.alarm
    assert found.low < 0.5 < found.high


def test_a_place_that_sends_more_is_no_drift_of_all():
    """Two places whose means lie apart: only the share of their source groups has changed."""
    rng = np.random.default_rng(4)

    def draws(counts):
        return [Moments.of(rng.normal(mean, 0.1, n)) for mean, n in zip((0.3, 0.7), counts, strict=True)]

    before, now = draws((30, 30)), draws((10, 60))
    assert not stratified_shift(list(zip(now, before, strict=True)), LEVEL).alarm
    assert shift(now[0] + now[1], [before[0] + before[1]], LEVEL).alarm


def test_places_together_by_hand_and_one_place_is_the_plain_comparison():
    rng = np.random.default_rng(5)
    now, before = (rng.normal(0.5, 0.1, (2, n)) for n in (20, 40))
    found = stratified_shift([(Moments.of(a), Moments.of(b)) for a, b in zip(now, before, strict=True)], 0.05)
    gap = now.mean() - before.mean()
    pooled = (20 * now.var(axis=1) + 40 * before.var(axis=1)) / 58
    error = np.sqrt(pooled.sum() * (1 / 20 + 1 / 40)) / 2
    assert (found.value - found.reference, found.groups) == (pytest.approx(gap, abs=1e-6), 40)
    assert (found.high - found.low) / 2 / error == pytest.approx(1.981, abs=0.01)  # t of nearly 116 degrees
    one = (Moments.of(now[0]), Moments.of(before[0]))
    assert stratified_shift([one], LEVEL) == shift(one[0], [one[1]], LEVEL)


def test_several_new_sites_are_compared_by_how_sites_differ():
    rng = np.random.default_rng(6)
    sites = [Moments.of(rng.normal(rng.normal(0.5, 0.1), 0.05, 20)) for _ in range(10)]
    assert not between_shift(sites[:4], sites[4:], LEVEL).alarm
    moved = [Moments.of(rng.normal(rng.normal(0.9, 0.1), 0.05, 20)) for _ in range(4)]
    assert between_shift(moved, sites[4:], LEVEL).alarm
    one = between_shift(moved[:1], sites[4:], LEVEL)
    assert one == shift(moved[0], sites[4:], LEVEL, between=True)


def test_a_rare_class_seen_once_more_is_no_alarm():
    before = Moments.of(np.repeat([0.0, 1.0], [95, 5]))
    assert not shift(Moments.of(np.array([1.0] * 3 + [0.0] * 7)), [before], LEVEL / 12).alarm


def test_figures_without_any_spread_are_compared_all_the_same():
    same = Moments.of(np.full(6, 0.5))
    assert shift(same, [same], LEVEL).ratio == 0.0
    assert shift(Moments.of(np.full(6, 0.9)), [same], LEVEL).alarm
