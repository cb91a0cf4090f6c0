"""Splitting a site's patches by source group."""

import warnings

import numpy as np
import pytest

from medfl.data.splits import split_by_group


def test_splits_hold_whole_groups_and_every_class_with_three() -> None:
    """60 random sites, from 3 groups to 40, of skewed classes, sizes and mixtures."""
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in range(60):
            groups = np.repeat(np.arange(n := int(rng.integers(3, 40))), rng.integers(1, 8, n))
            pure = rng.dirichlet(np.full(5, 0.4)).cumsum().searchsorted(rng.random(n)).clip(max=4)
            mixed = case % 3 == 0
            labels = (
                np.where(rng.random(len(groups)) < 0.2, rng.integers(0, 5, len(groups)), pure[groups])
                if mixed
                else pure[groups]
            )
            splits = split_by_group(labels, groups, 0.15, 0.2, case)
            assert sorted(np.concatenate(list(splits.values()))) == list(range(len(groups)))
            homes = [set(groups[rows]) for rows in splits.values()]
            assert all(homes)
            assert sum(map(len, homes)) == len(set().union(*homes))
            for label in () if mixed else np.unique(labels):
                if len(set(groups[labels == label])) >= 3:
                    assert all((labels[rows] == label).any() for rows in splits.values()), (case, label)


def test_shares_come_near_what_is_asked() -> None:
    labels = np.repeat(np.arange(400) % 4, 5)
    groups = np.repeat(np.arange(400), 5)
    splits = split_by_group(labels, groups, 0.15, 0.2, 1)
    assert abs(len(splits["test"]) / 2000 - 0.2) < 0.01
    assert abs(len(splits["val"]) / 2000 - 0.15) < 0.02
    for rows in splits.values():
        assert np.ptp(np.bincount(labels[rows])) <= 10  # stratified: two groups at most
    third = split_by_group(labels, groups, 0.3, 0.3, 1)
    assert [round(len(third[name]) / 2000, 1) for name in ("train", "val", "test")] == [0.4, 0.3, 0.3]


def test_splits_do_not_depend_on_the_order_of_rows() -> None:
    groups = np.repeat(np.arange(30), 4)
    labels = groups % 3
    shuffled = np.random.default_rng(0).permutation(len(groups))
    plain, moved = (split_by_group(labels[o], groups[o], 0.15, 0.2, 5) for o in (np.arange(120), shuffled))
    for name in plain:
        assert set(groups[plain[name]]) == set(groups[shuffled][moved[name]])
    assert set(plain["test"]) != set(split_by_group(labels, groups, 0.15, 0.2, 6)["test"])


def test_what_was_drawn_once_is_not_drawn_again(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(0, 3, 200), np.repeat(np.arange(50), 4)
    plain = split_by_group(labels, groups, 0.15, 0.2, 5)
    first = split_by_group(labels, groups, 0.15, 0.2, 5, tmp_path / "splits")
    monkeypatch.setattr("medfl.data.splits._draw", lambda *_: pytest.fail("drawn again"))
    again = split_by_group(labels, groups, 0.15, 0.2, 5, tmp_path / "splits")
    for name in plain:
        np.testing.assert_array_equal(plain[name], first[name])
        np.testing.assert_array_equal(plain[name], again[name])
    monkeypatch.undo()
    for file in (tmp_path / "splits").iterdir():
        file.write_bytes(b"cut short")
    other = split_by_group(labels, groups, 0.15, 0.2, 6, tmp_path / "splits")
    torn = split_by_group(labels, groups, 0.15, 0.2, 5, tmp_path / "splits")
    np.testing.assert_array_equal(plain["test"], torn["test"])
    assert set(other["test"]) != set(torn["test"])
