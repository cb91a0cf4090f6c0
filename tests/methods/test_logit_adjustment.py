"""Logit adjustment: shifts by hand, the balanced softmax, classes that a site lacks, the neutral setting."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.methods.logit_adjustment import LogitAdjustment
from tests.toys import toy_run

SITE = SimpleNamespace(class_counts=torch.tensor([3.0, 1.0, 0.0]))


def test_shifts_by_hand():
    shifted = LogitAdjustment(tau=2.0).modify_logits(SITE, torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([0]))
    expected = [1 + 2 * math.log(0.75), 1 + 2 * math.log(0.25), -math.inf]
    assert shifted[0].tolist() == pytest.approx(expected)


def test_tau_1_is_the_balanced_softmax():
    """exp(f_c) n_c over the sum of the same (Ren et al., eq. 4)."""
    logits, label = torch.tensor([[0.3, -0.4, 2.0]]), torch.tensor([1])
    loss = cross_entropy(LogitAdjustment().modify_logits(SITE, logits, label), label)
    weighted = logits.exp()[0] * SITE.class_counts
    assert loss.item() == pytest.approx(-math.log(float(weighted[1] / weighted.sum())))


def test_tau_0_is_fedavg_and_tau_1_is_not():
    plain, _ = toy_run(rounds=2)
    neutral, _ = toy_run([{"name": "logit_adjustment", "tau": 0.0}], rounds=2)
    other, _ = toy_run(["logit_adjustment", "ecgr"], rounds=2)
    assert torch.equal(neutral.weights, plain.weights)
    assert not torch.allclose(other.weights, plain.weights)


def test_tau_out_of_range():
    with pytest.raises(MedflError, match="`tau` must be a number of at least 0"):
        build_chain([{"name": "logit_adjustment", "tau": -1}])
