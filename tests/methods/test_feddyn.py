"""FedDyn: rounds against a plain loop, the fixed point, lost replies, the neutral setting, refusals."""

from collections.abc import Collection

import numpy as np
import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from tests.hand import PAIR, START, Absent, play
from tests.toys import toy_run

SHARES = {"near": 0.25, "far": 0.75}


def reference(alpha: float, rounds: int, lost: Collection[tuple[int, str]] = (), lr: float = 0.5) -> list[list[float]]:
    """The algorithm as its docstring states it, in float64; (round, site) of `lost` take no part."""
    w, h = np.array(START), np.zeros(3)
    own = {name: np.zeros(3) for name in PAIR}
    after = []
    for t in range(rounds):
        ends = {}
        for name, hand in PAIR.items():
            if (t, name) in lost:
                continue
            y = w.copy()
            for _ in range(hand.steps):
                y -= lr * (np.multiply(hand.curvature, y - np.array(hand.target)) - own[name] + alpha * (y - w))
            own[name] = own[name] - alpha * (y - w)
            ends[name] = y
        h = h - alpha * sum(SHARES[name] * (end - w) for name, end in ends.items())
        w = sum(SHARES[name] * end for name, end in ends.items()) / sum(SHARES[name] for name in ends) - h / alpha
        after.append(w.tolist())
    return after


def test_three_rounds_by_the_plain_loop():
    game = play([{"name": "feddyn", "alpha": 0.2}], rounds=3)
    for found, expected in zip(game.rounds(3), reference(0.2, 3), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_it_ends_at_the_minimum_of_the_weighted_objective_where_fedavg_does_not():
    """sum_i p_i c_i (w - t_i) = 0, by hand: w = sum p c t / sum p c."""
    pull = sum(SHARES[n] * np.array(h.curvature) * np.array(h.target) for n, h in PAIR.items())
    best = pull / sum(SHARES[n] * np.array(h.curvature) for n, h in PAIR.items())
    dyn = play([{"name": "feddyn", "alpha": 0.5}], rounds=150).rounds(150)[-1]
    avg = play([], rounds=150).rounds(150)[-1]
    assert dyn == pytest.approx(best.tolist(), abs=1e-3)
    assert np.abs(np.array(avg) - best).max() > 0.02


def test_a_site_that_is_absent_keeps_its_vector_and_its_share():
    lost = {(1, "far")}
    game = play([{"name": "feddyn", "alpha": 0.2}], rounds=4, transport=Absent, lost=lost)
    (first,) = game.rounds(1)
    before = game.committed("far")["feddyn.h"].clone()
    (second,) = game.rounds(1)
    assert torch.equal(game.committed("far")["feddyn.h"], before)
    (third,) = game.rounds(1)
    for found, expected in zip((first, second, third), reference(0.2, 3, lost), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    assert game.state.json_state["feddyn"] == {"near": 2, "far": 6}


def test_alpha_0_is_fedavg_and_it_goes_with_ecgr():
    plain, _ = toy_run(rounds=2)
    neutral, _ = toy_run([{"name": "feddyn", "alpha": 0.0}], rounds=2)
    other, _ = toy_run(["feddyn", "ecgr"], rounds=2)
    assert torch.equal(neutral.weights, plain.weights)
    assert not torch.allclose(other.weights, plain.weights)


@pytest.mark.parametrize("other", ["scaffold", "fednova", "lips", "fedbn", "median", "fedbuff"])
def test_what_it_does_not_go_with_is_refused(other):
    with pytest.raises(MedflError, match=r"leave one of them out|keep one of them"):
        build_chain(["feddyn", other])
