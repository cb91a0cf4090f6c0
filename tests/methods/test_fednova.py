"""FedNova: the normaliser against closed forms and real steps, unequal sites by hand, refusals."""

import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.methods.fednova import normaliser
from tests.hand import Hand, play
from tests.toys import toy_bench


def test_closed_forms():
    assert normaliser(7) == 7
    assert normaliser(20, momentum=0.9) == pytest.approx(120.94, abs=5e-3)
    for tau, rho in ((1, 0.5), (13, 0.9), (40, 0.99)):
        assert normaliser(tau, momentum=rho) == pytest.approx((tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho))
    for tau, mu, lr in ((5, 1.0, 0.1), (30, 0.01, 0.05)):
        assert normaliser(tau, mu=mu, lr=lr) == pytest.approx((1 - (1 - mu * lr) ** tau) / (mu * lr))


def test_against_the_optimiser_itself():
    # Nine steps of torch's SGD with a constant gradient of 1 and a proximal term: (w - e) / lr.
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    stepper = torch.optim.SGD([w], lr=0.2, momentum=0.8)
    for _ in range(9):
        w.grad = 1.0 + 0.7 * w.detach()
        stepper.step()
    assert normaliser(9, momentum=0.8, mu=0.7, lr=0.2) == pytest.approx(-w.item() / 0.2)


# One step of lr 1 on h = 1 lands on the target at once, so more steps change nothing: w - e = w - b.
# near: p 1/4, 1 step, target 0; far: p 3/4, 3 steps, target 1. w = 3, so w - e = 3 and 2.
# a = 1 and 3; sum p a = 1/4 + 9/4 = 2.5; sum p d = 3/4 + 3/4 * 2/3 = 1.25; w - 3.125 = -.125.
UNEQUAL = {
    "near": Hand(2, target=(0.0,) * 3, curvature=(1.0,) * 3, steps=1),
    "far": Hand(6, target=(1.0,) * 3, curvature=(1.0,) * 3, steps=3),
}


def test_unequal_steps_by_hand():
    after = play(["fednova"], UNEQUAL, lr=1.0, start=(3.0,) * 3).rounds(1)[0]
    assert after == pytest.approx([-0.125] * 3, abs=1e-6)


def test_only_replies_that_count_are_averaged():
    # far is lost: FedNova of one site is that site's own endpoint.
    after = play(["fednova"], UNEQUAL, lr=1.0, start=(3.0,) * 3, lost={(0, "far")}).rounds(1)[0]
    assert after == pytest.approx([0.0] * 3, abs=1e-6)


def test_it_removes_the_pull_of_the_busier_site():
    # Small steps, equal curvature and samples, 2 and 20 steps: FedAvg goes to the busy site, FedNova to the middle.
    sites = {
        "idle": Hand(4, target=(0.0,) * 3, curvature=(1.0,) * 3, steps=2),
        "busy": Hand(4, target=(1.0,) * 3, curvature=(1.0,) * 3, steps=20),
    }
    settings = {"rounds": 25, "lr": 0.005, "momentum": 0.9, "evaluate_every": 999}
    plain = play([], sites, **settings).rounds(25)[-1]
    fair = play(["fednova"], sites, **settings).rounds(25)[-1]
    assert plain[0] > 0.9
    assert 0.4 < fair[0] < 0.6


def test_a_proximal_term_changes_the_normaliser():
    # mu 1, lr .5, one and two steps: a = 1 and (1 - .25) / .5 = 1.5. w = 4, targets 0 and 1, h = 1.
    # near: y = 4 - .5 * 4 = 2, w - e = 2, d = 2. far: y = 4 - 1.5 = 2.5; then 1.5 + (2.5 - 4) = 0: w - e = 1.5.
    # d = 1; sum p a = .25 + .75 * 1.5 = 1.375; sum p d = .5 + .75 = 1.25; w - 1.71875 = 2.28125.
    sites = {
        "near": Hand(2, target=(0.0,) * 3, curvature=(1.0,) * 3, steps=1),
        "far": Hand(6, target=(1.0,) * 3, curvature=(1.0,) * 3, steps=2),
    }
    chain = ["fednova", {"name": "fedprox", "mu": 1.0}]
    after = play(chain, sites, lr=0.5, start=(4.0,) * 3).rounds(1)[0]
    assert after == pytest.approx([2.28125] * 3, abs=1e-6)


def test_an_overshooting_proximal_term_is_refused_by_name():
    with pytest.raises(MedflError, match=r"fedprox\.mu.*learning rate of 1 .* below 1"):
        play(["fednova", {"name": "fedprox", "mu": 2.0}], lr=1.0).rounds(1)


def test_refusals():
    bench = toy_bench(["fednova"])
    with pytest.raises(MedflError, match=r"method\.fednova.*sgd, not adamw"):
        bench.chain.check(bench.model, "adamw", 0.0, 0.0)
    bench.chain.check(bench.model, "sgd", 0.9, 1e-4)
    with pytest.raises(MedflError, match="fednova counts steps of SGD, which pflalign replaces"):
        build_chain(["pflalign", "fednova"])
    for other in ("fedbn", "lips"):
        with pytest.raises(MedflError, match=f"fednova rescales.*under {other} sites do not start from w"):
            build_chain([other, "fednova"])
