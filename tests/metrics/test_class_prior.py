"""Class mixes against computations by hand."""

import numpy as np
import pytest

from medfl.metrics.class_prior import LEAST_SHARE, estimated_mix, mix_shift, predicted_mix, proper_mix


def saerens(probs, prior, steps=5000):
    """The EM of Saerens et al., patch by patch and class by class."""
    mix = list(prior)
    for _ in range(steps):
        sums = [0.0] * len(mix)
        for row in probs.tolist():
            joint = [mix[c] / prior[c] * row[c] for c in range(len(mix))]
            for c, part in enumerate(joint):
                sums[c] += part / sum(joint)
        mix = [part / len(probs) for part in sums]
    return mix


def test_a_stated_mix_is_bayes_rule():
    training, there, posterior = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.1, 0.8]), np.array([0.7, 0.2, 0.1])
    logits = np.log(posterior) + mix_shift(there, training)
    by_hand = [0.7 * 0.1 / 0.5, 0.2 * 0.1 / 0.3, 0.1 * 0.8 / 0.2]
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), np.array(by_hand) / sum(by_hand))
    np.testing.assert_allclose(mix_shift(training, training), 0)


def test_em_is_that_of_saerens_et_al_and_the_most_likely_mix():
    rng = np.random.default_rng(3)
    probs, prior = rng.dirichlet([0.6, 0.4, 0.5], 60), np.array([0.5, 0.3, 0.2])
    mix = estimated_mix(probs, prior)
    np.testing.assert_allclose(mix, saerens(probs, prior, 300), atol=1e-6)

    def likelihood(other):
        return np.log((probs * (other / prior)).sum(axis=1)).mean()

    best = likelihood(mix)
    for other in rng.dirichlet([1, 1, 1], 50):
        assert likelihood(0.9 * mix + 0.1 * other) <= best + 1e-9


def test_a_class_that_is_never_seen_is_rare_and_not_impossible():
    mix = proper_mix([1, 0, 0, 0])
    assert mix.sum() == pytest.approx(1)
    assert mix[1] == pytest.approx(LEAST_SHARE, rel=0.01)
    assert np.isfinite(mix_shift([1, 0, 0], [0, 0.5, 0.5])).all()


@pytest.mark.parametrize("wrong", [[], [-0.1, 1.1], [0, 0], [float("nan"), 1], [[0.5, 0.5]]])
def test_what_is_no_mix_is_refused(wrong):
    with pytest.raises(ValueError, match="class mix"):
        proper_mix(wrong)


def test_no_patches_have_no_mix():
    with pytest.raises(ValueError, match="at least one patch"):
        estimated_mix(np.zeros((0, 2)), [0.5, 0.5])
    np.testing.assert_allclose(predicted_mix(np.array([[0.1, 0.9], [0.6, 0.4], [0.2, 0.8]]), 2), [1 / 3, 2 / 3])
