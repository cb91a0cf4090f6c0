"""Training patches told by their loss: hand-made losses, scikit-learn, an overfitted and an untrained model."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from medfl.data.batches import AugmentSpec
from medfl.messages import EvaluateRequest, MeasureRequest, TrainRequest
from medfl.metrics import clustered_delong, losses, membership
from medfl.site.membership_attack import attack_members, draw_members
from tests.toys import toy_bench, toy_sites, toy_work


def told(members, others, **groups):
    sizes = len(members), len(others)
    own = groups.get("groups") or (np.arange(sizes[0]), 1000 + np.arange(sizes[1]))
    return membership(np.array(members, dtype=float), np.array(others, dtype=float), *own)


def test_losses_by_hand():
    probs = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    found = losses(probs, np.array([1, 1, 2]))
    assert found[:2].tolist() == [-math.log(0.25), 0.0]
    assert 27 < found[2] < math.inf
    assert losses(probs[:2], np.array([1, 1])).mean() == pytest.approx(log_loss([1, 1], probs[:2], labels=[0, 1, 2]))


def test_hand_made_losses():
    """A member is found where its loss is the smaller: 3 of 4 pairs, a tie counting one half."""
    assert told([0.1, 0.5], [0.3, 0.9])["auroc"] == 0.75
    assert told([0.1, 0.3], [0.3, 0.9])["auroc"] == 0.875
    assert told([0.1, 0.2], [0.3, 0.9])["auroc"] == 1.0
    assert told([2.0, 3.0], [0.3, 0.9])["auroc"] == 0.0
    assert told([], [0.3])["auroc"] is None
    assert told([0.3], [])["auroc_ci"] is None


def test_against_scikit_learn_and_the_interval_of_groups():
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(30), 5), np.repeat(np.arange(30, 50), 5)
    shifts = rng.normal(size=50)
    members, others = (
        rng.normal(size=len(g)) ** 2 + shifts[g] + extra for g, extra in zip(groups, (0, 1), strict=True)
    )
    found = told(members, others, groups=groups)
    truth, scores = np.repeat([1, 0], [150, 100]), -np.concatenate([members, others])
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    low, high = found["auroc_ci"]
    assert low < found["auroc"] < high
    alone = membership(members, others, np.arange(150), 150 + np.arange(100))["auroc_ci"]
    assert high - low > 1.3 * (alone[1] - alone[0])
    both = np.concatenate(groups)
    variance = clustered_delong(np.stack([-scores, scores], 1), truth, both, 50).per_class
    assert variance[0] == pytest.approx(variance[1])  # either column is the same question
    assert found["few_groups"] is False
    assert (found["n_members"], found["n_others"]) == (150, 100)


def final(site, bench, members=1000):
    request = MeasureRequest(
        1,
        bench.model.weights(),
        bench.model.buffers(),
        ("test",),
        resamples=20,
        temperature=3.0,
        members=members,
    )
    return site.handle(request)


def test_an_overfitted_model_is_found_and_an_untrained_one_is_not():
    """24 patches with random labels, learnt by heart: nothing but memory tells them from the test patches."""
    bench = toy_bench(backbone="test_efficientnet_gn")
    work = toy_work(local_steps=60, optimizer="adamw", lr=0.003, augment=AugmentSpec(flips=False, rotate90=False))
    site = toy_sites(bench, (24,), work)["site-0"]
    site.store.labels[:] = np.random.default_rng(1).integers(0, 3, len(site.store.labels))
    before = final(site, bench).metrics["test"]["membership"]
    low, high = before["auroc_ci"]
    assert low < 0.5 < high
    site.handle(TrainRequest(0, bench.model.weights(), bench.model.buffers()))
    after = final(site, bench).metrics["test"]["membership"]
    assert after["auroc"] > 0.8
    assert after["auroc_ci"][0] > 0.5
    assert set(after) == {"auroc", "auroc_ci", "few_groups", "n_members", "n_others"}


def test_asked_of_training_sites_in_the_final_measurement_only():
    bench = toy_bench()
    site = toy_sites(bench, (24,))["site-0"]
    assert "membership" not in final(site, bench, members=0).metrics["test"]
    plain = EvaluateRequest(1, bench.model.weights(), bench.model.buffers(), ("test", "val"))
    assert all("membership" not in figures for figures in site.handle(plain).metrics.values())
    site.role = "held_out"
    assert "membership" not in final(site, bench).metrics["test"]


def test_the_cap_draws_patches_and_the_draw_is_the_sites_own():
    bench = toy_bench()
    sites = toy_sites(bench, (24, 24))
    asked = []
    others = torch.zeros(12, 3, dtype=torch.float64)
    for name, cap, seed in (
        ("site-0", 10, 1),
        ("site-0", 10, 1),
        ("site-0", 10, 2),
        ("site-1", 10, 1),
        ("site-0", 99, 1),
    ):
        rows = draw_members(sites[name].store, cap, seed)
        asked.append(rows)
        found = attack_members(sites[name].store, rows, torch.zeros(len(rows), 3, dtype=torch.float64), others)
        assert found["n_members"] == len(asked[-1]) == min(cap, 24)
        assert found["auroc"] == 0.5  # all losses are log 3
    assert all(set(rows) <= set(range(24)) and len(set(rows)) == len(rows) for rows in asked)
    assert asked[0].tolist() == asked[1].tolist()
    assert asked[0].tolist() not in (asked[2].tolist(), asked[3].tolist())
