"""ECGR against the authors' numbers, a direct implementation, and hand-computed cases."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medfl.errors import RunFailed
from medfl.methods.core.context import SiteContext
from medfl.methods.core.local_steps import Steps
from medfl.methods.ecgr import Ecgr, choose, reaggregate
from tests.paths import VECTORS
from tests.toys import toy_bench, toy_federation, toy_run, toy_sites

VECTORS_FILE = VECTORS / "ecgr.npz"


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


@pytest.mark.skipif(not VECTORS_FILE.exists(), reason="the shared reference vectors are not at hand")
def test_authors_vectors():
    stored = np.load(VECTORS_FILE)
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


def recorded(steps: torch.Tensor, storage: str) -> Steps:
    """Steps of a round that walked from a point of ordinary weights by `steps`."""
    start = torch.randn(steps.shape[1], generator=torch.Generator().manual_seed(3)) * 0.05
    local = SiteContext(SimpleNamespace(vector=start.clone()), start, start, steps=len(steps), lr=0.1, seed=0)
    for local.step, step in enumerate(steps, start=1):
        local.model.vector -= step
        Steps(local, storage).record()
    return Steps(local, storage)


@pytest.mark.parametrize(("storage", "error"), [("auto", 1e-4), ("device", 1e-4), ("host", 1e-4), ("bf16", 4e-3)])
def test_what_is_recorded_are_the_steps(storage, error):
    steps = 1e-3 * torch.randn(11, 70_001, generator=torch.Generator().manual_seed(2))  # more columns than one block
    kept = recorded(steps, storage)
    exact = steps.double() @ steps.T.double()
    scale = exact.diagonal().sqrt()
    assert ((kept.gram() - exact).abs() / (scale[:, None] * scale)).max() < error
    assert torch.equal(kept.gram(), kept.gram().T)
    factors = torch.linspace(-1, 1, 11)
    combined = kept.combine(factors)
    assert (combined - factors @ steps).norm() < error * (factors @ steps).norm()


def test_bf16_halves_the_record_and_keeps_the_choice():
    steps = 1e-3 * torch.randn(40, 5_000, generator=torch.Generator().manual_seed(2))
    full, half = recorded(steps, "device"), recorded(steps, "bf16")
    assert half.rows.nbytes == full.rows.nbytes / 2
    chosen = [set(choose(kept.gram(), 0.5, "greedy").tolist()) for kept in (full, half)]
    assert chosen[0] == chosen[1]


def test_a_record_that_does_not_fit_names_itself_and_the_setting(monkeypatch):
    monkeypatch.setattr("medfl.model.memory_limits.free_bytes", lambda device: 100_000)
    bench = toy_bench(["ecgr"], backbone="test_byobnet")
    federation, records = toy_federation(bench, toy_sites(bench), rounds=4)
    with pytest.raises(RunFailed) as caught:
        federation.run()
    sentence = "ECGR's record of 3 local steps needs"
    for text in (str(caught.value), records[0]["failures"][0]["reason"]):
        assert sentence in text
        assert "0.1 MB are free" in text
        assert "`method.ecgr.storage: bf16`" in text


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


def test_storage_is_one_of_four():
    with pytest.raises(ValueError, match="auto, device, host, bf16"):
        Ecgr(storage="disk")


def test_in_a_federation_beta_one_is_fedavg_and_beta_matters():
    plain, _ = toy_run()
    same, _ = toy_run([{"name": "ecgr", "beta": 1.0}])
    other, _ = toy_run(["ecgr"])
    torch.testing.assert_close(same.weights, plain.weights, rtol=0, atol=1e-6)
    assert (other.weights - plain.weights).abs().max() > 1e-4
