"""Differential privacy of whole sites: clipping, weights, noise and accounting, by hand and by reference."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from opacus.accountants import RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.methods.core.method_table import compatible
from medfl.methods.core.registry import built_in_methods
from medfl.methods.differential_privacy import Dp, entropy_normal
from medfl.runs.privacy_ledger import Ledger, best_guess, epsilon
from tests.hand import Absent, play
from tests.toys import toy_bench, toy_federation, toy_sites

STILL = {"name": "dp", "noise": 1e-12, "seeded": True}
NO_BUFFERS = "test_efficientnet_gn"

# Two local steps of lr .5 from w = (4, 2, -3), as in tests/methods/core/test_chain_rounds.py: displacements s - e
NEAR, FAR = (3.0, 0.72, -0.76), (0.57, 1.5, -1.08)


def scaled(vector, clip):
    return torch.tensor(vector) * min(1.0, clip / math.hypot(*vector))


@pytest.mark.parametrize("clip", [10.0, 2.5, 0.3])
def test_clipped_at_the_site_and_equal_weights_by_hand(clip):
    """near is 3.18 long and far 1.93; near has 2 patches and far 6, and they count the same."""
    after = play([STILL | {"clip": clip}]).rounds(1)[0]
    expected = torch.tensor((4.0, 2.0, -3.0)) - (scaled(NEAR, clip) + scaled(FAR, clip)) / 2
    assert after == pytest.approx(expected.tolist(), abs=3e-6)


def test_what_leaves_a_site_is_never_longer_than_the_bound():
    bench = toy_bench([STILL | {"clip": 0.01}], backbone=NO_BUFFERS)
    federation, _ = toy_federation(bench, toy_sites(bench))
    seen = []
    take = federation.take
    federation.take = lambda progress, reply, bytes_up: (seen.append(reply), take(progress, reply, bytes_up))
    federation.run_round()
    lengths = [float(torch.linalg.vector_norm(reply.update, dtype=torch.float64)) for reply in seen]
    assert len(lengths) == 3
    assert all(0.01 * (1 - 2e-6) < length <= 0.01 for length in lengths)
    assert all(reply.buffers.numel() == 0 and not reply.extra for reply in seen)


def test_the_server_bounds_a_site_that_did_not_clip():
    game = play([STILL | {"clip": 1.0}])
    chain = game.federation.chain
    chain._by_phase["reply"] = ()
    after = game.rounds(1)[0]
    expected = torch.tensor((4.0, 2.0, -3.0)) - (scaled(NEAR, 1.0) + scaled(FAR, 1.0)) / 2
    assert after == pytest.approx(expected.tolist(), abs=3e-6)


def test_a_lost_reply_adds_nothing_and_does_not_change_the_divisor():
    after = play([STILL | {"clip": 10.0}], transport=Absent, lost={(0, "far")}).rounds(1)[0]
    expected = torch.tensor((4.0, 2.0, -3.0)) - torch.tensor(NEAR) / 2
    assert after == pytest.approx(expected.tolist(), abs=3e-6)


def normal(values, std, errors):
    """Mean, deviation, tails and fourth moment are those of N(0, std^2), to so many standard errors."""
    z = (values / std).double()
    n = len(z)
    assert abs(z.mean()) < errors / math.sqrt(n)
    assert abs(z.std() - 1) < errors / math.sqrt(2 * n)
    assert abs((z.abs() > 1.959964).double().mean() - 0.05) < errors * math.sqrt(0.05 * 0.95 / n)
    assert abs((z**4).mean() - 3) < errors * math.sqrt(96 / n)


def test_the_noise_of_a_round_has_the_stated_deviation():
    """noise clip / m on every weight, m = 2 of 3 sites drawn; two rounds do not share their noise."""
    noisy = {"name": "dp", "clip": 0.02, "noise": 3.0, "seeded": True}
    ends = {}
    for name, link in (("with", noisy), ("without", noisy | {"noise": 1e-12})):
        bench = toy_bench([link], backbone=NO_BUFFERS)
        federation, _ = toy_federation(bench, toy_sites(bench), sites_per_round=2)
        federation.run_round()
        ends[name] = federation.state.weights
    normal(ends["with"] - ends["without"], 3.0 * 0.02 / 2, errors=3)
    link, server = Dp(seeded=True), play([STILL]).federation.server(1.0, ("near", "far"))
    first, again = (link._seeded(server)(1000) for _ in range(2))
    server.round = 1
    assert torch.equal(first, again)
    assert abs(float(torch.corrcoef(torch.stack([first, link._seeded(server)(1000)]))[0, 1])) < 0.15


def test_noise_from_the_operating_system_is_normal_and_never_twice():
    """Entropy has no seed: at 7 standard errors a right generator fails less than once in 10^10 runs."""
    values = entropy_normal(200_000)
    assert torch.isfinite(values).all()
    normal(values, 1.0, errors=7)
    assert not torch.equal(values, entropy_normal(200_000))


def test_a_run_with_entropy_cannot_be_repeated_and_a_seeded_one_can():
    ends = [play([{"name": "dp", "seeded": seeded}]).rounds(2)[-1] for seeded in (False, False, True, True)]
    assert ends[0] != ends[1]
    assert ends[2] == ends[3]


def test_server_optimisers_come_after_the_noise():
    """FedAvgM with momentum .5: both rounds' noised means, the first half as strong again."""
    link = {"name": "dp", "clip": 1.0, "noise": 0.5, "seeded": True}
    (first, second), (same, slow) = (play(m).rounds(2) for m in ([link], [link, {"name": "fedavgm", "momentum": 0.5}]))
    step = torch.tensor((4.0, 2.0, -3.0)) - torch.tensor(first)
    assert same == first
    assert slow == pytest.approx((torch.tensor(second) - 0.5 * step).tolist(), abs=1e-6)


# ------------------------------------------------------------------------------------------------- what is refused


def test_what_goes_with_dp():
    link = Dp()
    meets = {name for name, kind in built_in_methods().items() if name != "dp" and compatible(link, kind())}
    at_the_site = {"ecgr", "fedprox", "finetune", "fedlc", "logit_adjustment", "fedsam", "fedlesam", "moon"}
    assert meets == {*at_the_site, "fedavgm", "fedadagrad", "fedadam", "fedyogi"}


@pytest.mark.parametrize("other", ["scaffold", "fednova", "fedbn", "lips", "fedgmr", "pflalign"])
def test_what_does_not_is_refused_with_the_reason(other):
    with pytest.raises(MedflError, match=other):
        build_chain(["dp", other])


def test_a_backbone_with_batchnorm_is_refused():
    with pytest.raises(MedflError, match=r"method\.dp.*BatchNorm statistics.*norm_layer: groupnorm"):
        build_chain(["dp"]).check(toy_bench().model, "sgd", 0.0, 0.0)
    build_chain(["dp"]).check(toy_bench(backbone=NO_BUFFERS).model, "sgd", 0.0, 0.0)


@pytest.mark.parametrize(
    ("key", "value"), [("clip", 0), ("clip", -1), ("noise", 0), ("delta", 0), ("delta", 1), ("seeded", 1)]
)
def test_parameters_out_of_range(key, value):
    with pytest.raises(MedflError, match=rf"method\.dp`: `{key}`"):
        build_chain([{"name": "dp", key: value}])


def test_nothing_else_may_be_sent():
    with pytest.raises(ValueError, match="its clipped update alone, not more"):
        Dp().make_update(SimpleNamespace(extra_up={"more": torch.zeros(3)}))


# ------------------------------------------------------------------------------------------------------- accounting


def exact(noise, rounds, delta):
    """Epsilon of a Gaussian mechanism, exactly: Balle and Wang 2018, arXiv 1805.06530, theorem 8, solved for it."""
    mu = math.sqrt(rounds) / noise

    def spent(eps):
        return norm.cdf(mu / 2 - eps / mu) - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu)) - delta

    return brentq(spent, 1e-9, 1e4)


@pytest.mark.parametrize(("noise", "rounds"), [(0.5, 1), (1.0, 1), (1.0, 20), (3.0, 50), (10.0, 100)])
def test_epsilon_is_that_of_opacus_and_a_tight_upper_bound(noise, rounds):
    accountant = RDPAccountant()
    for _ in range(rounds):
        accountant.step(noise_multiplier=noise, sample_rate=1.0)
    ours = epsilon(noise, rounds, 1e-5)
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)  # more orders are tried, so it may be less
    assert ours <= accountant.get_epsilon(1e-5)
    assert exact(noise, rounds, 1e-5) <= ours <= 1.12 * exact(noise, rounds, 1e-5)


def test_nothing_released_costs_nothing_and_extremes_are_finite():
    assert epsilon(1.0, 0, 1e-5) == 0.0
    assert 0 <= epsilon(1e4, 1, 1e-5) < 0.01
    assert math.isfinite(epsilon(1e-9, 1, 1e-5))


def test_the_best_guess_by_hand():
    assert best_guess(0.0, 0.0) == 0.5
    assert best_guess(math.log(3), 0.0) == pytest.approx(0.75)
    assert best_guess(math.log(3), 0.1) == pytest.approx(3.1 / 4)
    assert best_guess(1e6, 1e-5) == 1.0


def record(t, sites, counted=True):
    return {"round": t, "participants": sites, "counted": counted, "update": {"mean_sq": 1.0} if counted else None}


def test_the_ledger_counts_the_site_that_was_drawn_most(tmp_path):
    chain, path = build_chain([{"name": "dp", "noise": 2.0}]), tmp_path / "privacy.jsonl"
    assert Ledger.open(build_chain(["fedprox"]), path) is None
    ledger = Ledger.open(chain, path)
    told = [
        ledger.spend(r)["privacy"]["epsilon"]
        for r in (record(0, ["a", "b"]), record(1, ["b", "c"]), record(2, ["a", "c"], counted=False), record(3, []))
    ]
    one, two = epsilon(2.0, 1, 1e-5), epsilon(2.0, 2, 1e-5)
    assert told == [one, two, two, two]
    assert ledger.rounds() == {"a": 1, "b": 2, "c": 1}
    assert ledger.facts()["sites"]["a"] == {"rounds": 1, "epsilon": one}


def test_a_repeated_round_was_released_twice(tmp_path):
    """Killed after round 1 was released, resumed from the checkpoint before it: its noise is new, unless seeded."""
    for seeded, expected in ((False, 3), (True, 2)):
        chain, path = build_chain([{"name": "dp", "seeded": seeded}]), tmp_path / f"{seeded}.jsonl"
        first = Ledger.open(chain, path)
        first.spend(record(0, ["a"]))
        first.spend(record(1, ["a"]))
        with path.open("a") as stream:
            stream.write('{"round": 2, "si')  # the power went while this was written, before anything was sent
        again = Ledger.open(chain, path)
        told = again.spend(record(1, ["a"]))
        assert again.rounds() == {"a": expected}
        assert told["privacy"]["epsilon"] == epsilon(1.0, expected, 1e-5)
        assert Ledger.open(chain, path).rounds() == {"a": expected}


def test_without_opacus_a_sentence_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(MedflError, match=r"medfl-pathology\[privacy\]"):
        Ledger.open(build_chain(["dp"]), tmp_path / "privacy.jsonl")
