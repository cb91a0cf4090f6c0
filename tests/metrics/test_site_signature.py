"""Telling the site from features: hand-made features, chance, groups, and what cannot be said."""

import numpy as np
import pytest

from medfl.metrics.site_signature import _probe, signature_sentence, site_signature


def patches(sites=3, groups=10, size=4, classes=2, width=8, seed=0):
    """Features [N, width] of noise, with their sites, labels and groups; a group is of one class."""
    rng = np.random.default_rng(seed)
    site, group = (its.ravel() for its in np.meshgrid(np.arange(sites), np.arange(classes * groups), indexing="ij"))
    site, group = np.repeat(site, size), np.repeat(group, size)
    return rng.normal(size=(len(site), width)), site, group % classes, group


def test_a_stain_that_shifts_one_feature_is_told():
    features, site, label, group = patches()
    features[:, 2] += 20 * (site == 1)
    features[:, 3] += 20 * (site == 2)
    told = site_signature(features, site, label, group)
    assert told.balanced_accuracy == 1.0
    assert told.chance == pytest.approx(1 / 3)
    assert (told.sites, told.classes, told.reason) == ((0, 1, 2), (0, 1), "")


def test_noise_is_chance():
    shares = [site_signature(*patches(groups=15, seed=seed)).balanced_accuracy for seed in range(5)]
    assert np.mean(shares) == pytest.approx(1 / 3, abs=0.04)


def test_what_only_a_group_shows_is_no_sign_of_its_site():
    """Every group has features of its own, far apart: patches split at random would tell the group, and so the site."""
    features, site, label, group = patches(groups=12, width=40)
    own = np.random.default_rng(1).normal(size=(3, 24, 40))
    features = 0.01 * features + own[site, group]
    assert site_signature(features, site, label, group).balanced_accuracy < 0.55
    assert site_signature(features, site, label, np.arange(len(group))).balanced_accuracy > 0.8


def test_class_mix_tells_nothing():
    """Two sites of mostly one class each, features that show the class alone."""
    features, site, label, group = patches(sites=2, groups=20)
    features[:, 0] += 30 * label
    rare = (site == label) | (group < 14)  # of the other class a site has seven groups of twenty
    told = site_signature(features[rare], site[rare], label[rare], group[rare])
    assert told.balanced_accuracy == pytest.approx(0.5, abs=0.15)


def test_too_few_groups_have_a_reason():
    told = site_signature(*patches(groups=4))
    assert (told.balanced_accuracy, told.chance, told.sites) == (None, None, ())
    assert "two sites with 5 source groups each" in told.reason
    features, site, label, group = patches()
    few = (site != 2) | (group < 4)  # the third site has two groups of either class
    assert site_signature(features[few], site[few], label[few], group[few]).sites == (0, 1)


def test_more_features_than_patches_give_the_same_probe():
    rng = np.random.default_rng(2)
    features, sites = rng.normal(size=(12, 9)), np.arange(12) % 3
    wide = np.concatenate([features, np.zeros((12, 20))], axis=1)
    assert (_probe(features, sites, features) == _probe(wide, sites, wide)).all()


def test_the_sentence_says_figure_and_chance_or_why_there_is_none():
    figures = {"balanced_accuracy": 0.9, "chance": 0.25, "sites": 4, "classes": 2, "reason": ""}
    assert "in 90% (chance 25%; 4 sites, within 2 classes)" in signature_sentence(figures)
    assert signature_sentence(figures | {"balanced_accuracy": None, "reason": "x"}) == "Site signature: none, since x"
