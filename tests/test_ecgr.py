"""ECGR against the authors' numbers, a direct implementation, and hand-computed cases."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medfl.methods.ecgr import choose, reaggregate, step_gram
from tests.toys import toy_run

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors" / "ecgr.npz"


def naive(steps: np.ndarray, keep: float, beta: float) -> tuple[np.ndarray, list[int]]:
    """METHODS C1, as written: grow C by the step that leaves the running sum shortest; rescale."""
    total = steps.sum(0)
    chosen: list[int] = []
    running = np.zeros_like(total)
    for _ in range(max(1, int(keep * len(steps)))):
        free = [j for j in range(len(steps)) if j not in chosen]
        best = min(free, key=lambda j: float(np.linalg.norm(running + steps[j])))
        chosen.append(best)
        running = running + steps[best]
    rest = [j for j in range(len(steps)) if j not in chosen]
    update = steps[chosen].sum(0) + beta * steps[rest].sum(0)
    return update * np.linalg.norm(total) / np.linalg.norm(update), chosen


def test_two_steps_by_hand():
    # d_1 = (3, 0), d_2 = (0, 4); keep .5 of 2 -> K = 1, the shorter step 0.
    # u = (3, 0) + .5 (0, 4) = (3, 2), length sqrt(13); the plain sum (3, 4) has length 5.
    update, chosen = reaggregate(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), keep=0.5, beta=0.5)
    assert chosen.tolist() == [0]
    torch.testing.assert_close(update, torch.tensor([3.0, 2.0]) * 5 / 13**0.5)


def test_greedy_is_not_a_ranking_by_length():
    # The shortest step is (1, 0); then (-1.1, 0) brings the sum to .1, although (0, 1.05) is the shorter step.
    steps = torch.tensor([[1.0, 0.0], [0.0, 1.05], [-1.1, 0.0], [5.0, 5.0]])
    assert reaggregate(steps, keep=0.5)[1].tolist() == [0, 2]
    assert reaggregate(steps, keep=0.5, select="norm")[1].tolist() == [0, 1]


@pytest.mark.parametrize(("total", "keep", "beta"), [(5, 0.5, 0.2), (13, 0.25, 0.0), (30, 0.75, 0.5), (2, 1.0, 0.2)])
def test_against_the_definition(total, keep, beta):
    steps = np.random.default_rng(total).normal(size=(total, 200)) * np.linspace(0.5, 2, total)[:, None]
    update, chosen = reaggregate(torch.from_numpy(steps), keep, beta)
    expected, order = naive(steps, keep, beta)
    assert chosen.tolist() == order
    np.testing.assert_allclose(update.numpy(), expected, rtol=1e-9)


@pytest.mark.skipif(not VECTORS.exists(), reason="the shared reference vectors are not at hand")
def test_authors_vectors():
    stored = np.load(VECTORS)
    cases = sorted({key.split("_")[0] for key in stored})
    assert cases
    for case in cases:
        expected = stored[f"{case}_update"]
        update, chosen = reaggregate(
            torch.from_numpy(stored[f"{case}_steps"]), float(stored[f"{case}_keep"]), float(stored[f"{case}_beta"])
        )
        assert chosen.tolist() == stored[f"{case}_convergent"].tolist()
        assert np.linalg.norm(update.numpy() - expected) <= 1e-5 * np.linalg.norm(expected)


def test_beta_one_is_the_plain_sum():
    steps = torch.randn(9, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(reaggregate(steps, beta=1.0)[0], steps.sum(0))


def test_length_is_preserved_for_every_selection():
    steps = torch.randn(9, 50, generator=torch.Generator().manual_seed(1))
    for select in ("greedy", "norm", "random", "cosine"):
        update, chosen = reaggregate(steps, select=select)
        torch.testing.assert_close(update.norm(), steps.sum(0).norm())
        assert len(set(chosen.tolist())) == 4


def test_zero_gives_zero():
    assert reaggregate(torch.zeros(4, 7))[0].tolist() == [0.0] * 7
    # Two opposite steps with beta 1 sum to zero; with beta .2 the plain sum's length, zero, is kept too.
    opposite = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    assert reaggregate(opposite, beta=0.2)[0].abs().max() == 0
    # Chosen steps cancel and beta is 0: nothing is left to rescale, and the answer is zero, not NaN.
    cancel = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [9.0, 9.0], [9.0, 9.0]])
    assert reaggregate(cancel, beta=0.0)[0].tolist() == [0.0, 0.0]


def test_gram_of_a_path_is_the_gram_of_its_steps():
    steps = torch.randn(11, 70_001, generator=torch.Generator().manual_seed(2))  # more columns than one block
    torch.testing.assert_close(step_gram(steps.cumsum(0)), (steps @ steps.T).double(), rtol=1e-3, atol=1e-1)


def test_random_is_reproducible_and_seeded():
    gram = torch.eye(20, dtype=torch.float64)
    assert torch.equal(choose(gram, 0.5, "random", 1), choose(gram, 0.5, "random", 1))
    assert not torch.equal(choose(gram, 0.5, "random", 1), choose(gram, 0.5, "random", 2))


@pytest.mark.parametrize(
    "wrong", [{"keep": 0.0}, {"keep": 1.1}, {"beta": -0.1}, {"beta": float("nan")}, {"select": "x"}]
)
def test_parameters_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        reaggregate(torch.ones(2, 2), **wrong)


def test_in_a_federation_beta_one_is_fedavg_and_beta_matters():
    plain, _ = toy_run()
    same, _ = toy_run([{"name": "ecgr", "beta": 1.0}])
    other, _ = toy_run(["ecgr"])
    torch.testing.assert_close(same.weights, plain.weights, rtol=0, atol=1e-6)
    assert (other.weights - plain.weights).abs().max() > 1e-4
