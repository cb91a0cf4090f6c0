"""FedLC: margins and loss by hand, classes that a site lacks, the neutral setting, refusals."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.methods.fedlc import margins
from tests.toys import toy_run


def test_margins_and_loss_by_hand():
    # 16^(-1/4) = 1/2, 1^(-1/4) = 1: half of each is .25 and .5; the absent class leaves the softmax.
    shift = margins(torch.tensor([16.0, 1.0, 0.0]), 0.5)
    assert shift.tolist() == [0.25, 0.5, math.inf]
    # Logits (1, 2, 3) become (.75, 1.5, -inf): -log of the first's share is log(1 + e^.75).
    loss = cross_entropy(torch.tensor([[1.0, 2.0, 3.0]]) - shift, torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(0.75)))


def test_a_class_that_the_site_lacks_is_not_trained():
    logits = torch.zeros(2, 3, requires_grad=True)
    cross_entropy(logits - margins(torch.tensor([3.0, 5.0, 0.0]), 1.0), torch.tensor([0, 1])).backward()
    assert logits.grad[:, 2].tolist() == [0.0, 0.0]
    assert torch.isfinite(logits.grad).all()


def test_tau_0_is_fedavg_and_tau_1_is_not():
    plain, _ = toy_run(rounds=2)
    neutral, _ = toy_run([{"name": "fedlc", "tau": 0.0}], rounds=2)
    other, _ = toy_run(["fedlc", "ecgr"], rounds=2)
    assert torch.equal(neutral.weights, plain.weights)
    assert not torch.allclose(other.weights, plain.weights)


def test_refusals():
    with pytest.raises(MedflError, match="both change the logits that the loss sees; keep one"):
        build_chain(["fedlc", "logit_adjustment"])
    with pytest.raises(MedflError, match="`tau` must be a number of at least 0"):
        build_chain([{"name": "fedlc", "tau": -1}])
