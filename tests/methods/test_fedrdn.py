"""FedRDN: six numbers and a transformed image by hand, what travels when, the neutral setting, refusals."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.methods.fedrdn import STATISTICS, FedRDN, pixel_statistics
from tests.toys import toy_bench, toy_federation, toy_run, toy_sites


def test_six_numbers_by_hand():
    # Two patches of one pixel: red 0 and 51 of 255 are 0 and .2, mean .1, deviation .1; green .4 and .4; blue 0 and 1.
    patches = np.array([[[[0, 102, 0]]], [[[51, 102, 255]]]], np.uint8)
    local = SimpleNamespace(state={}, new_state={}, patches=lambda: patches)
    assert pixel_statistics(local).tolist() == pytest.approx([0.1, 0.4, 0.5, 0.1, 0.0, 0.5], abs=1e-7)
    assert STATISTICS in local.new_state


def test_an_image_by_hand():
    # Two sites: means .2 and .6, deviations .1 and .3; the mean site has .4 and .2. A value x of .5 becomes
    # .4 + .2 (.5 - .2) / .1 = 1 or .4 + .2 (.5 - .6) / .3 = 1/3; the backbone's mean .5 and deviation .25 turn .5 into
    # 0, 1 into 2 and 1/3 into -2/3.
    table = torch.tensor([[0.2] * 3 + [0.1] * 3, [0.6] * 3 + [0.3] * 3]).flatten()
    model = SimpleNamespace(mean=(0.5,) * 3, std=(0.25,) * 3)
    local = SimpleNamespace(extra={STATISTICS: table}, model=model, seed=1, step=0)
    images = FedRDN().transform_batch(local, torch.zeros(64, 3, 2, 2))
    values = sorted({round(value, 4) for value in images.flatten().tolist()})
    assert values == [pytest.approx(-2 / 3, abs=1e-4), pytest.approx(2.0)]
    assert all(len(image.unique()) == 1 for image in images)  # one site an image


def test_numbers_travel_once_the_first_round_has_counted():
    bench = toy_bench(["fedrdn"])
    sites = toy_sites(bench)
    federation, records = toy_federation(bench, sites, rounds=2)
    federation.run()
    assert sorted(k for k in federation.state.tensors if k.startswith(STATISTICS)) == [
        f"{STATISTICS}.site-{i}" for i in range(3)
    ]
    first, second = (record["sites"]["site-0"] for record in records[:2])
    assert second["bytes_down"] - first["bytes_down"] == 4 * 6 * 3
    plain_bench = toy_bench()
    plain, plain_records = toy_federation(plain_bench, toy_sites(plain_bench), rounds=2)
    plain.run()
    assert first["bytes_up"] - plain_records[0]["sites"]["site-0"]["bytes_up"] == 4 * 6
    assert first["train_loss"] == plain_records[0]["sites"]["site-0"]["train_loss"]
    assert second["train_loss"] != plain_records[1]["sites"]["site-0"]["train_loss"]


def test_probability_0_is_fedavg_and_it_goes_with_ecgr():
    plain, _ = toy_run(rounds=2)
    neutral, _ = toy_run([{"name": "fedrdn", "probability": 0.0}], rounds=2)
    other, _ = toy_run(["fedrdn", "ecgr"], rounds=2)
    assert torch.equal(neutral.weights, plain.weights)
    assert not torch.allclose(other.weights, plain.weights)


@pytest.mark.parametrize("other", ["dp", "median", "fedasync"])
def test_what_it_does_not_go_with_is_refused(other):
    with pytest.raises(MedflError, match=r"leave one of them out|leave that way open"):
        build_chain(["fedrdn", other])
