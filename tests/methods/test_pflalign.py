"""pFLAlign: stored rounds, one step by hand, the formulas in numpy, limits, the three models, refusals."""

import math

import numpy as np
import pytest
import torch

from medfl.errors import MedflError
from medfl.messages import EvaluateRequest, TrainRequest
from medfl.methods.core.chain import build_chain
from medfl.methods.pflalign import ABLATIONS, BLOCK, AlignmentState, step
from medfl.site.site import Site
from tests.hand import PAIR, Hand, play
from tests.paths import VECTORS
from tests.toys import toy_bench, toy_federation, toy_sites, toy_store, toy_work

VECTORS_FILE = VECTORS / "pflalign.npz"


@pytest.mark.skipif(not VECTORS_FILE.exists(), reason="the shared reference vectors are not at hand")
def test_stored_rounds():
    stored = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(VECTORS_FILE).items()}
    state = AlignmentState.fresh(stored["theta"][0])
    for t, theta in enumerate(stored["theta"]):
        w = state.begin(theta)
        for noise in stored["noise"][t]:
            gradient = stored["hessian"] @ (w - stored["optimum"]) + noise
            step(
                w, gradient, state, float(stored["lr"]), int(stored["steps"]), float(stored["beta"]),
                float(stored["eps"]),
            )  # fmt: skip
        state.finish(w, theta)
        for ours, name in ((w, "end"), (state.offset, "offset"), (state.v, "v"), (state.P, "P")):
            torch.testing.assert_close(ours, stored[name][t], rtol=0, atol=1e-9)


def one_step(ablation="none", g=2.0, offset=0.4, P=0.0, v=0.0):
    """w = 1, eta = .2, T = 5; returns (w, state) after one step, in float64."""
    w, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    state = AlignmentState(zero + offset, zero + v, zero + P, zero.clone())
    step(w, zero + g, state, lr=0.2, steps=5, ablation=ablation)
    return float(w), state


def test_one_step_by_hand():
    # m = .1 * 2, v = .1 * 4, P = .1 * .04 / .4 = .01, v - m^2 = .36.
    w, state = one_step()
    gamma = 0.5 + 0.5 * math.erf(0.2 / math.sqrt(0.72))
    assert [float(x) for x in (state.m, state.v, state.P)] == pytest.approx([0.2, 0.4, 0.01], abs=1e-9)
    assert w == pytest.approx(1 - 0.2 * 0.01 * 2 - gamma * 0.4 / 5, abs=1e-9)


@pytest.mark.parametrize(
    ("ablation", "P", "gamma"),
    [
        ("no_preconditioner", 1.0, 0.5 + 0.5 * math.erf(0.2 / math.sqrt(0.72))),
        ("no_correction", 0.01, 0.0),
        ("constant_gamma", 0.01, 0.5),
        ("constant_gamma_one", 0.01, 1.0),
        ("hard_gamma", 0.01, 1.0),
        ("no_personalization", 0.01, 0.0),
        ("sgd", 1.0, 0.0),
    ],
)
def test_ablations_by_hand(ablation, P, gamma):
    assert one_step(ablation)[0] == pytest.approx(1 - 0.2 * P * 2 - gamma * 0.4 / 5, abs=1e-9)
    assert ablation in ABLATIONS


def test_the_gate_reads_the_offsets_sign():
    # Gradient against the offset: Phi(-x) = 1 - Phi(x), and hard 0. No evidence (g = 0): 1/2, hard too.
    gamma = 0.5 - 0.5 * math.erf(0.2 / math.sqrt(0.72))
    assert one_step(offset=-0.4)[0] == pytest.approx(1 - 0.004 + gamma * 0.4 / 5, abs=1e-9)
    assert one_step("hard_gamma", offset=-0.4)[0] == pytest.approx(1 - 0.004, abs=1e-9)
    assert one_step(g=0.0, v=1.0)[0] == pytest.approx(1 - 0.5 * 0.4 / 5, abs=1e-9)
    assert one_step("hard_gamma", g=0.0)[0] == pytest.approx(1 - 0.5 * 0.4 / 5, abs=1e-9)


def reference(w, gradients, offset, v, P, lr, beta, eps):
    """B1, line by line."""
    m = np.zeros_like(w)
    for g in gradients:
        m = beta * m + (1 - beta) * g
        v = beta * v + (1 - beta) * g**2
        P = (1 - (1 - beta) * g**2 / (v + eps)) * P + (1 - beta) * m**2 / (v + eps)
        spread = np.sqrt(2 * np.maximum(v - m**2, 0) + eps)
        erf = np.array([math.erf(x) for x in np.abs(m) / spread])
        gamma = 0.5 + 0.5 * erf * np.sign(m * offset)
        w = w - lr * P * g - gamma * offset / len(gradients)
    return w, v, P


@pytest.mark.parametrize(("beta", "eps"), [(0.9, 1e-12), (0.5, 1e-3), (0.0, 1e-12)])
def test_against_the_formulas_on_fresh_numbers(beta, eps):
    rng = np.random.default_rng(7)
    w, offset = rng.normal(size=(2, 50))
    v, P = rng.uniform(size=(2, 50))
    gradients = rng.normal(size=(4, 50)) * rng.choice([1e-4, 1.0, 30.0], size=(1, 50))
    offset[:5] = 0.0
    gradients[:, 5:10] = 0.0
    expected = reference(w, gradients, offset, v, P, 0.3, beta, eps)
    ours = torch.from_numpy(w.copy())
    state = AlignmentState(*(torch.from_numpy(x.copy()) for x in (offset, v, P)), torch.zeros(50).double())
    for g in gradients:
        step(ours, torch.from_numpy(g), state, 0.3, 4, beta, eps)
    for have, want in zip((ours, state.v, state.P), expected, strict=True):
        np.testing.assert_allclose(have.numpy(), want, rtol=1e-9, atol=1e-12)


def test_blocks_change_nothing():
    # One vector of several blocks equals its pieces stepped one by one, in float32, where training runs.
    size = 2 * BLOCK + 77
    w, g, offset, v, P = torch.randn(5, size, generator=torch.Generator().manual_seed(3)).unbind()
    v, P = v.square(), P.sigmoid()
    pieces = [slice(0, 1000), slice(1000, BLOCK + 5), slice(BLOCK + 5, size)]
    expected = []
    for rows in pieces:
        state = AlignmentState(*(x[rows].clone() for x in (offset, v, P)), torch.zeros(len(w[rows])))
        part = w[rows].clone()
        step(part, g[rows], state, 0.1, 3)
        expected.append(part)
    state = AlignmentState(offset.clone(), v.clone(), P.clone(), torch.zeros(size))
    step(w, g, state, 0.1, 3)
    torch.testing.assert_close(w, torch.cat(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("beta", [0.9, 0.5])
def test_a_gradient_without_noise_stays_finite_in_float32(beta):
    # v and m^2 meet, and their difference rounds to either side of zero.
    g = 10 * torch.randn(500, generator=torch.Generator().manual_seed(1))
    state, w = AlignmentState(g.clone(), g.square() * (1 - 1e-6), torch.zeros(500), g.clone()), torch.zeros(500)
    step(w, g, state, 1e-3, 300, beta)
    assert (state.v < state.m.square()).any()
    assert torch.isfinite(w).all()


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.0, 0.0, 0.12), (1.0, 0.4, 0.62), (1e6, 0.93, 1.0)])
def test_the_preconditioner_estimates_signal_over_power(ratio, low, high):
    # P -> (E g)^2 / E g^2 for Gaussian gradients of mean/std `ratio`; m restarts every round, which keeps it lower.
    generator = torch.Generator().manual_seed(0)
    state = AlignmentState.fresh(torch.zeros(200))
    for _ in range(20):
        w = state.begin(torch.zeros(200))
        for _ in range(50):
            step(w, ratio + torch.randn(200, generator=generator), state, 0.0, 50, ablation="no_correction")
    assert low <= float(state.P.mean()) <= high


def test_a_cold_start_barely_moves_and_p_init_one_does():
    # Constant gradient: P = .010, .024, .042, .064, .090 after steps 1..5.
    state = AlignmentState.fresh(torch.zeros(1, dtype=torch.float64))
    seen = []
    for _ in range(5):
        step(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), state, 0.1, 5)
        seen.append(float(state.P))
    assert seen == pytest.approx([0.01, 0.024, 0.042, 0.064, 0.09], abs=6e-4)
    cold = play(["pflalign"]).rounds(1)[0]
    warm = play([{"name": "pflalign", "p_init": 1}]).rounds(1)[0]
    start = np.array((4.0, 2.0, -3.0))
    assert np.linalg.norm(cold - start) < 0.1 * np.linalg.norm(warm - start)


def test_p_init_one_by_hand():
    # w = 4, g = 4 (h = 1, target 0), eta .5, T = 1, b .9: v = g^2 = 16 and stays, m = .4,
    # P = .9 * 1 + .1 * .16 / 16 = .901, w = 4 - .5 * .901 * 4 = 2.198. In round 2 v is not started again.
    solo = {"solo": Hand(2, target=(0.0,) * 3, curvature=(1.0,) * 3, steps=1)}
    game = play([{"name": "pflalign", "p_init": 1}], solo, start=(4.0,) * 3)
    assert game.rounds(1)[0] == pytest.approx([2.198] * 3, abs=1e-6)
    game.rounds(1)
    g = 2.198 - 1.802  # the second round starts from theta + offset
    assert game.committed("solo")["pflalign.v"].tolist() == pytest.approx([0.9 * 16 + 0.1 * g**2] * 3, rel=1e-5)


def test_a_site_keeps_its_offset_and_starts_from_it():
    game = play(["pflalign"])
    game.rounds(1)
    theta = torch.tensor((4.0, 2.0, -3.0))
    for name in PAIR:
        kept = game.committed(name)
        torch.testing.assert_close(kept["pflalign.end"] - theta, kept["pflalign.offset"], rtol=0, atol=1e-6)
        assert kept["pflalign.offset"].norm() > 0
    # Without personalisation the offset stays zero, and P lives on.
    game = play([{"name": "pflalign", "ablation": "no_personalization"}])
    game.rounds(2)
    assert game.committed("near")["pflalign.offset"].tolist() == [0.0] * 3
    assert game.committed("near")["pflalign.P"].min() > 0


def test_three_models_are_measured_under_their_own_names():
    bench = toy_bench([{"name": "pflalign", "p_init": 1}], backbone="test_resnet")
    sites = toy_sites(bench, (16, 24), toy_work(momentum=0.0, lr=0.2, local_steps=2))
    federation, records = toy_federation(bench, sites, rounds=2)
    state = federation.run()
    assert set(records[0]["sites"]["site-0"]) & {"val_aligned", "val_personalised"} == set()  # nothing personal yet
    entry = records[2]["sites"]["site-0"]
    losses = [entry[key]["loss"] for key in ("val", "val_aligned", "val_personalised")]
    assert len(set(losses)) == 3
    # Each of them again, through a chain that knows no personal models: the vectors by hand.
    kept = sites["site-0"].state
    bare = Site("site-0", "train", sites["site-0"].store, sites["site-0"].training, toy_bench(backbone="test_resnet"))
    models = [
        (state.weights, state.buffers),
        (state.weights + kept["pflalign.offset"], state.buffers),
        (kept["pflalign.end"], kept["pflalign.buffers"]),
    ]
    for loss, (weights, buffers) in zip(losses, models, strict=True):
        metrics = bare.handle(EvaluateRequest(2, weights, buffers, ("val",))).metrics
        assert metrics["val"]["loss"] == pytest.approx(loss, rel=1e-6)
    assert not torch.equal(kept["pflalign.buffers"], state.buffers)


def test_measuring_personal_models_leaves_training_alone():
    runs = []
    for every in (1, 9):
        bench = toy_bench(["pflalign"])
        sites = toy_sites(bench, (16, 16), toy_work(momentum=0.0, local_steps=2))
        runs.append(toy_federation(bench, sites, rounds=2, evaluate_every=every)[0].run().weights)
    assert torch.equal(*runs)


def test_a_site_that_waits_keeps_its_state():
    solo = Site("solo", "train", toy_store("solo", 1), toy_work(momentum=0.0, local_steps=1), toy_bench(["pflalign"]))
    model = solo.shared.model
    weights, buffers = model.weights(), model.buffers()
    solo.handle(TrainRequest(0, weights, buffers))
    kept = solo.pending[1]["pflalign.offset"].clone()
    solo.handle(EvaluateRequest(5, weights, buffers, ("val",), last_accepted_round=0))
    assert torch.equal(solo.state["pflalign.offset"], kept)
    reply = solo.handle(TrainRequest(6, weights, buffers, last_accepted_round=0))
    assert torch.equal(solo.state["pflalign.offset"], kept)  # a round in the making changes no committed state
    assert torch.isfinite(reply.update).all()


@pytest.mark.parametrize(
    ("optimizer", "momentum", "decay"), [("sgd", 0.9, 0.0), ("adamw", 0.0, 0.0), ("sgd", 0.0, 1e-4)]
)
def test_it_replaces_the_optimiser(optimizer, momentum, decay):
    bench = toy_bench(["pflalign"])
    with pytest.raises(MedflError, match="pflalign replaces the optimiser"):
        bench.chain.check(bench.model, optimizer, momentum, decay)
    bench.chain.check(bench.model, "sgd", 0.0, 0.0)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ([{"name": "pflalign", "p_init": 0.5}], "`p_init` is 0 or 1, not 0.5"),
        ([{"name": "pflalign", "beta": 1}], "`beta` must be below 1"),
        ([{"name": "pflalign", "eps": 0}], "`eps` must be a number above 0"),
        ([{"name": "pflalign", "ablation": "p"}], "no_preconditioner, no_correction"),
        (["pflalign", "lips"], "pflalign and lips both decide where a site starts"),
        (["fedbn", "pflalign"], "pflalign and fedbn both decide"),
    ],
)
def test_refusals(method, said):
    with pytest.raises(MedflError) as caught:
        build_chain(method)
    assert said in str(caught.value)
