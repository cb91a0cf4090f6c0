"""MOON: the contrastive loss by hand, which models are compared, the neutral setting, refusals."""

import math

import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.methods.moon import contrast
from tests.hand import play
from tests.toys import toy_bench, toy_run


def test_the_loss_by_hand():
    # cos(z, near) = 1, cos(z, far) = 0, t = .5: -log(e^2 / (e^2 + 1)) = log(1 + e^-2); turned round, 2 + that.
    z, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert contrast(z, z, other, 0.5).item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert contrast(z, other, z, 0.5).item() == pytest.approx(2 + math.log(1 + math.exp(-2)))


def test_features_of_another_model_leave_the_network_as_it_is():
    model = toy_bench().model
    model.net.train()
    images = torch.randn(4, 3, 32, 32)
    weights, buffers = model.vector.clone(), model.buffer_vector.clone()
    model.net.eval()
    expected = model.features(images)
    model.net.train()
    model.vector.mul_(0.5)
    assert torch.equal(model.features_at(weights, buffers, images), expected)
    assert model.net.training
    assert torch.equal(model.vector, 0.5 * weights)
    assert torch.equal(model.buffer_vector, buffers)


def test_the_first_round_is_fedavgs_and_the_second_is_not():
    for rounds, same in ((1, True), (2, False)):
        plain, moon = (toy_run(method, rounds=rounds)[0] for method in ([], ["moon"]))
        assert torch.equal(plain.weights, moon.weights) is same


def test_mu_0_is_fedavg_and_it_goes_with_ecgr():
    plain, _ = toy_run(rounds=2)
    neutral, _ = toy_run([{"name": "moon", "mu": 0.0}], rounds=2)
    other, _ = toy_run(["moon", "ecgr"], rounds=2)
    assert torch.equal(neutral.weights, plain.weights)
    assert torch.equal(neutral.buffers, plain.buffers)
    assert not torch.allclose(other.weights, plain.weights)


def test_refusals():
    with pytest.raises(MedflError, match="does not give its features apart"):
        play(["moon"])
    with pytest.raises(MedflError, match="`temperature` must be a number above 0"):
        build_chain([{"name": "moon", "temperature": 0}])
