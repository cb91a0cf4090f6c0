"""ECGR whose beta follows agreement: the formula by hand, both rules in rounds, refusals."""

import numpy as np
import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.adaptive_ecgr import AdaptiveEcgr, agreement
from medfl.methods.core.chain import build_chain
from medfl.methods.ecgr import reaggregate
from tests.hand import PAIR, START, Absent, play

SHARES = {"near": 0.25, "far": 0.75}


def measured(vectors: np.ndarray, shares: np.ndarray) -> float:
    """The agreement of vectors, pair by pair as the formula says."""
    pairs = [(i, j) for i in range(len(vectors)) for j in range(len(vectors)) if i != j]
    together = sum(shares[i] * shares[j] * vectors[i] @ vectors[j] for i, j in pairs)
    return min(max(together / sum(p * (1 - p) * v @ v for p, v in zip(shares, vectors, strict=True)), 0), 1)


def of(vectors: list[list[float]], shares: list[float]) -> float:
    v, p = np.array(vectors), np.array(shares)
    lengths = (v**2).sum(1)
    return agreement(float(((p @ v) ** 2).sum()), float(p @ lengths), float(p**2 @ lengths))


@pytest.mark.parametrize(
    ("vectors", "shares", "expected"),
    [
        ([[3, 0], [0, 4]], [0.25, 0.75], 0.0),  # orthogonal, whatever their lengths and weights
        ([[1, 2], [1, 2], [1, 2]], [0.2, 0.3, 0.5], 1.0),
        ([[1, 0], [1, 1]], [0.5, 0.5], 2 / 3),  # 2 * .25 * 1 / (.25 * 1 + .25 * 2)
        ([[1, 0], [-1, 0]], [0.5, 0.5], 0.0),  # -1, cut
        ([[5, 5]], [1.0], 1.0),
        ([[0, 0], [0, 0]], [0.5, 0.5], 0.0),
    ],
)
def test_agreement_by_hand(vectors, shares, expected):
    assert of(vectors, shares) == pytest.approx(expected, abs=1e-12)


def walk(name: str, w: np.ndarray, lr: float = 0.5) -> np.ndarray:
    """The displacements of a site's plain steps from w."""
    hand, steps = PAIR[name], []
    for _ in range(hand.steps):
        steps.append(lr * np.multiply(hand.curvature, w - np.array(hand.target)))
        w = w - steps[-1]
    return np.array(steps)


@pytest.mark.parametrize("by", ["coherence", "spread"])
def test_three_rounds_by_the_plain_loop(by):
    game = play([{"name": "adaptive_ecgr", "by": by, "beta": 0.3}], rounds=3)
    w, seen, betas = np.array(START), 0.0, []
    for found in game.rounds(3):
        updates = []
        for name in PAIR:
            steps = walk(name, w)
            own = measured(steps, np.full(len(steps), 1 / len(steps)))
            betas.append(0.3 + 0.7 * (own if by == "coherence" else seen))
            updates.append(reaggregate(torch.from_numpy(steps), beta=betas[-1])[0].numpy())
        shares = np.array([SHARES[name] for name in PAIR])
        seen = measured(np.array(updates), shares)
        w = w - shares @ np.array(updates)
        assert found == pytest.approx(w.tolist(), abs=1e-5)
    assert 0.3 < max(betas) < 1  # or the test could not tell it from ECGR or FedAvg
    if by == "spread":
        assert game.state.json_state["adaptive_ecgr"] == pytest.approx(seen, abs=1e-5)


def test_the_spread_is_that_of_the_sites_that_answered():
    game = play([{"name": "adaptive_ecgr", "by": "spread"}], rounds=2, transport=Absent, lost={(0, "far")})
    game.rounds(1)
    assert game.state.json_state["adaptive_ecgr"] == 1.0  # one vector alone
    game.rounds(1)
    assert game.state.json_state["adaptive_ecgr"] < 1.0


def test_refusals():
    with pytest.raises(MedflError, match="keep one of them"):
        build_chain(["ecgr", "adaptive_ecgr"])
    with pytest.raises(ValueError, match="by"):
        AdaptiveEcgr(by="weather")
