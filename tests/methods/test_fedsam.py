"""FedSAM and FedLESAM: the moved point by hand, BatchNorm's statistics, neutral settings, refusals."""

import numpy as np
import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from tests.hand import START, Hand, play
from tests.toys import toy_run

ALONE = {"near": Hand(2, target=(0.0, 0.0, 1.0), curvature=(1.0, 0.4, 0.2), steps=1)}
TARGET, CURVATURE = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.4, 0.2])


def test_one_step_of_fedsam_by_hand():
    # At (4, 2, -3) g = (4, .8, -.8), its length 4.156922; half of its direction is (.481125, .096225, -.096225).
    # There g' = (4.481125, .838490, -.819245), and half of it is subtracted.
    game = play([{"name": "fedsam", "rho": 0.5}], ALONE)
    assert game.rounds(1)[0] == pytest.approx((1.7594374, 1.5807550, -2.5903775), abs=1e-6)


def test_two_rounds_of_fedlesam_by_hand():
    # Round 0 knows no older model: a plain step, to (2, 1.6, -2.6). Then the direction is (2, .4, -.4) / 2.078461.
    first = np.array(START) - 0.5 * CURVATURE * (np.array(START) - TARGET)
    direction = (np.array(START) - first) / np.linalg.norm(np.array(START) - first)
    second = first - 0.5 * CURVATURE * (first + 0.5 * direction - TARGET)
    game = play([{"name": "fedlesam", "rho": 0.5}], ALONE)
    for found, expected in zip(game.rounds(2), (first, second), strict=True):
        assert found == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_first_round_of_fedlesam_is_fedavgs():
    plain, lesam = (toy_run(method, rounds=1)[0] for method in ([], ["fedlesam"]))
    assert torch.equal(plain.weights, lesam.weights)


@pytest.mark.parametrize("name", ["fedsam", "fedlesam"])
def test_rho_0_is_fedavg_and_rho_moves_weights_and_not_the_padding(name):
    plain, _ = toy_run(rounds=2)
    neutral, _ = toy_run([{"name": name, "rho": 0.0}], rounds=2)
    other, _ = toy_run([{"name": name, "rho": 0.1}, "ecgr"], rounds=2)
    assert torch.equal(neutral.weights, plain.weights)
    assert torch.equal(neutral.buffers, plain.buffers)
    assert not torch.allclose(other.weights, plain.weights)


def test_refusals():
    with pytest.raises(MedflError, match="both move the point of the gradient; keep one"):
        build_chain(["fedsam", "fedlesam"])
    with pytest.raises(MedflError, match="`rho` must be a number of at least 0"):
        build_chain([{"name": "fedsam", "rho": -0.1}])
