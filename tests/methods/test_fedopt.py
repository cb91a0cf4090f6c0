"""Server optimisers: two rounds by hand, an independent reference, refusals."""

import math

import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.methods.core.context import ServerContext
from tests.hand import play


def served(entry, updates):
    """What each round subtracts from the weights, given its mean update."""
    link = build_chain([entry]).methods[0]
    server = ServerContext(torch.zeros(len(updates[0])), ("a",))
    return [link.server_step(server, torch.tensor(u)).tolist() for u in updates], server


def test_fedavgm_by_hand():
    # m = D = 2; then .5 * 2 + 1 = 2. lr .1.
    steps, _ = served({"name": "fedavgm", "lr": 0.1, "momentum": 0.5}, [[2.0], [1.0]])
    assert steps == [[pytest.approx(0.2)], [pytest.approx(0.2)]]


def test_fedadam_by_hand():
    # tau 1: v starts at 1. D = 2: m = .5 * 2 = 1, v = .75 + .25 * 4 = 1.75, step = .1 * 1 / (sqrt 1.75 + 1).
    # D = -2: m = .5 - 1 = -.5, v = .75 * 1.75 + 1 = 2.3125. No bias correction.
    entry = {"name": "fedadam", "lr": 0.1, "beta1": 0.5, "beta2": 0.75, "tau": 1.0}
    steps, _ = served(entry, [[2.0], [-2.0]])
    assert steps[0] == [pytest.approx(0.1 / (math.sqrt(1.75) + 1))]
    assert steps[1] == [pytest.approx(-0.05 / (math.sqrt(2.3125) + 1))]


def test_fedadagrad_by_hand():
    # beta1 0: m = D; v = 1 + 4 = 5, then 9.
    steps, _ = served({"name": "fedadagrad", "lr": 0.1, "beta1": 0, "tau": 1.0}, [[2.0], [-2.0]])
    assert steps[0] == [pytest.approx(0.2 / (math.sqrt(5) + 1))]
    assert steps[1] == [pytest.approx(-0.2 / 4)]


def test_fedyogi_by_hand():
    # tau 1, beta2 .75. D = 2: v = 1 - .25 * 4 * sign(1 - 4) = 2. D = 1: v = 2 - .25 * 1 * sign(2 - 1) = 1.75.
    # D = sqrt 1.75: sign 0, v stays.
    entry = {"name": "fedyogi", "lr": 1.0, "beta1": 0.0, "beta2": 0.75, "tau": 1.0}
    steps, server = served(entry, [[2.0], [1.0]])
    assert steps == [[pytest.approx(2 / (math.sqrt(2) + 1))], [pytest.approx(1 / (math.sqrt(1.75) + 1))]]
    assert server.tensors["fedyogi.v"].tolist() == [1.75]


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
def test_defaults_against_the_algorithm(name):
    # Reddi et al., Algorithm 2, in float64 with their beta1 .9, beta2 .99, tau 1e-3, v starting at tau^2.
    draws = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * 0.01
    steps, _ = served({"name": name, "lr": 0.03}, draws.tolist())
    m, v = torch.zeros(40, dtype=torch.float64), torch.full((40,), 1e-6, dtype=torch.float64)
    for step, draw in zip(steps, draws.double(), strict=True):
        m = 0.9 * m + 0.1 * draw
        square = draw**2
        if name == "fedadagrad":
            v = v + square
        elif name == "fedadam":
            v = 0.99 * v + 0.01 * square
        else:
            v = v - 0.01 * square * torch.sign(v - square)
        torch.testing.assert_close(torch.tensor(step).double(), 0.03 * m / (v.sqrt() + 1e-3), rtol=1e-4, atol=1e-8)


def test_defaults():
    (momentum,) = build_chain(["fedavgm"]).describe()
    assert momentum == {"name": "fedavgm", "lr": 1.0, "momentum": 0.9}
    (adam,) = build_chain(["fedadam"]).describe()
    assert adam == {"name": "fedadam", "lr": 0.01, "beta1": 0.9, "tau": 1e-3, "beta2": 0.99}
    assert "beta2" not in build_chain(["fedadagrad"]).describe()[0]


@pytest.mark.parametrize("name", ["fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_a_round_without_quorum_leaves_the_moments(name):
    game = play([name], quorum=1.0, lost={(1, "near")})
    game.rounds(1)
    before = {k: v.clone() for k, v in game.state.tensors.items()}
    assert before
    game.rounds(1)
    assert not game.records[1]["counted"]
    assert all(torch.equal(game.state.tensors[k], v) for k, v in before.items())


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (["fedadam", "fedyogi"], "fedadam and fedyogi are both optimisers of the server; keep one"),
        (["fedavgm", "fedadagrad"], "both optimisers of the server"),
        ([{"name": "fedadam", "lr": 0}], "`lr` must be a number above 0"),
        ([{"name": "fedadam", "beta2": 1}], "`beta2` must be below 1"),
        ([{"name": "fedavgm", "momentum": 1.0}], "`momentum` must be below 1"),
        ([{"name": "fedavgm", "beta1": 0.9}], "method.fedavgm.beta1"),
        ([{"name": "fedyogi", "tau": 0.0}], "`tau` must be a number above 0"),
        (["fedadm"], '"fedadam"'),
    ],
)
def test_refusals(method, said):
    with pytest.raises(MedflError) as caught:
        build_chain(method)
    assert said in str(caught.value)
