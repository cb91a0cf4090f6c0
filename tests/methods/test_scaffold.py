"""SCAFFOLD: variates by hand, the invariant of their sum, convergence under momentum, bytes."""

from dataclasses import dataclass

import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import MethodChain, build_chain
from medfl.methods.scaffold import CHANGE, GLOBAL, OWN, Scaffold
from tests.hand import Hand, play
from tests.toys import toy_run, toy_work

FIVE = {
    name: Hand(2 * k, target=(0.2 * k, 0.0, 1.0), curvature=(1.0, 0.2 * k, 0.4), steps=k)
    for k, name in enumerate("abcde", 1)
}


def test_two_rounds_by_hand():
    # One site, h = 1 everywhere, target 0, w = 4, lr .5, T = 2: g = 4, 2, so c_i+ = 3 and c = 3 / 1.
    # Then w = 1: g - c_i + c = g, so again g = 1, .5 and c = .75.
    solo = {"solo": Hand(2, target=(0.0,) * 3, curvature=(1.0,) * 3)}
    game = play(["scaffold"], solo, start=(4.0,) * 3)
    assert game.rounds(1) == [[1.0] * 3]
    assert game.state.tensors[GLOBAL].tolist() == [3.0] * 3
    assert game.rounds(1) == [[0.25] * 3]
    assert game.committed("solo")[OWN].tolist() == [0.75] * 3
    assert game.state.tensors[GLOBAL].tolist() == [0.75] * 3


def test_a_site_that_never_trained_counts_in_n():
    # Of two sites one trains; its change enters with 1/2, not with 1.
    game = play(["scaffold"], lost={(0, "far")})
    game.rounds(1)
    torch.testing.assert_close(game.state.tensors[GLOBAL], game.committed("near")[OWN] / 2)
    assert OWN not in game.committed("far")


def test_the_variate_is_the_mean_gradient_of_the_loss_alone():
    # Momentum .9, a proximal term and a correction move the site; the variate is the plain mean of h (y - b).
    game = play(["scaffold", {"name": "fedprox", "mu": 0.3}], FIVE, lr=0.1, momentum=0.9)
    game.rounds(2)
    before, c = game.state.weights.clone(), game.state.tensors[GLOBAL].clone()
    own = {name: game.committed(name)[OWN] for name in FIVE}
    game.rounds(1)
    for name, hand in FIVE.items():
        y, buffer, seen = before.clone(), torch.zeros(3), []
        for _ in range(hand.steps):
            seen.append(torch.tensor(hand.curvature) * (y - torch.tensor(hand.target)))
            buffer = 0.9 * buffer + seen[-1] + 0.3 * (y - before) - own[name] + c
            y = y - 0.1 * buffer
        torch.testing.assert_close(game.committed(name)[OWN], torch.stack(seen).mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_variates_sum_to_n_c_after_every_round(momentum):
    # Two of five sites a round, lost replies, and a round (the third) that has no quorum because both are lost.
    plain = play(["scaffold"], FIVE, rounds=12, sites_per_round=2)
    drawn = [plain.federation.schedule.participants(plain.federation, t) for t in range(12)]
    lost = {(1, drawn[1][0]), (2, drawn[2][0]), (2, drawn[2][1]), (6, drawn[6][1])}
    game = play(["scaffold"], FIVE, rounds=12, lr=0.1, momentum=momentum, sites_per_round=2, lost=lost)
    for t in range(12):
        game.rounds(1)
        total = sum(game.committed(name).get(OWN, torch.zeros(3)) for name in FIVE)
        c = game.state.tensors.get(GLOBAL, torch.zeros(3))
        torch.testing.assert_close(total, 5 * c, rtol=1e-5, atol=1e-5)
        assert game.records[t]["counted"] == (t != 2)
    assert c.abs().max() > 0.01
    assert {name for name in FIVE if OWN in game.committed(name)} == set(FIVE)


def test_a_round_without_quorum_changes_no_variate():
    game = play(["scaffold"], quorum=1.0, lost={(1, "near")})
    game.rounds(1)
    c, own = game.state.tensors[GLOBAL].clone(), {n: game.committed(n)[OWN] for n in ("near", "far")}
    game.rounds(1)
    assert not game.records[1]["counted"]
    assert torch.equal(game.state.tensors[GLOBAL], c)
    assert all(torch.equal(game.committed(n)[OWN], own[n]) for n in own)


@dataclass(frozen=True)
class OptionII(Scaffold):
    """The paper's own variates, c_i - c + (w - e) / (T lr)."""

    def make_update(self, local):
        super().make_update(local)
        moved = local.model.layout.pack(local.received - local.model.vector) / (local.steps * local.lr)
        before = local.state.get(OWN, torch.zeros_like(moved))
        local.new_state[OWN] = before - local.extra[GLOBAL] + moved
        local.extra_up[CHANGE] = local.new_state[OWN] - before


def test_under_momentum_it_converges_where_option_two_diverges():
    # Two quadratics that pull apart; the minimum of their sum is sum h b / sum h, coordinate by coordinate.
    pair = {
        "a": Hand(4, target=(0.0, 0.0, 1.0), curvature=(1.0, 0.4, 0.2), steps=10),
        "b": Hand(4, target=(1.0, 0.4, 0.0), curvature=(0.2, 1.0, 0.4), steps=10),
    }
    best = torch.tensor([0.2 / 1.2, 0.4 / 1.4, 0.2 / 0.6])

    def end(link, momentum, rounds):
        chain = MethodChain((link,) if link else ())
        game = play(chain, pair, rounds=rounds, lr=0.05, momentum=momentum, evaluate_every=99)
        return torch.tensor(game.rounds(rounds)[-1])

    assert (end(None, 0.9, 30) - best).abs().max() > 0.03
    assert (end(Scaffold(), 0.9, 30) - best).abs().max() < 1e-4
    assert (end(OptionII(), 0.9, 20) - best).abs().max() > 1e3
    # Under plain SGD the two are one method.
    torch.testing.assert_close(end(Scaffold(), 0.0, 5), end(OptionII(), 0.0, 5), rtol=1e-4, atol=1e-5)


def test_it_works_beside_adamw_and_never_reads_the_optimiser():
    state, _ = toy_run(["scaffold"], work=toy_work(optimizer="adamw", lr=0.003), evaluate_every=9)
    assert torch.isfinite(state.tensors[GLOBAL]).all()
    assert state.tensors[GLOBAL].norm() > 0


def test_one_more_vector_each_way():
    _, plain = toy_run(rounds=1)
    _, records = toy_run(["scaffold"], rounds=1)
    entry, fedavg = records[0]["sites"]["site-0"], plain[0]["sites"]["site-0"]
    weights = 4 * toy_run(rounds=0)[0].weights.numel()
    assert entry["bytes_down"] == fedavg["bytes_down"] + weights
    assert entry["bytes_up"] == fedavg["bytes_up"] + weights
    assert records[1]["sites"]["site-0"]["bytes_down"] == fedavg["bytes_down"]  # the closing round only measures


def test_refusals():
    with pytest.raises(MedflError, match=r"method\.scaffold.*`frozen` is true or false, not 1"):
        build_chain([{"name": "scaffold", "frozen": 1}])
    with pytest.raises(MedflError, match=r"method\.scaffold\.option"):
        build_chain([{"name": "scaffold", "option": 2}])
