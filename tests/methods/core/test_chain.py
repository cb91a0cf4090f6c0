"""Chains: how they are built, what they refuse, and FedProx."""

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core import chain, registry
from medfl.methods.core.chain import build_chain
from medfl.methods.core.method import Method
from tests.toys import toy_run


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (["ecrg"], ["ecrg", '"ecgr"']),
        ([{"name": "ecgr", "bta": 0.1}], ["method.ecgr.bta", '"beta"']),
        ([{"name": "ecgr", "beta": -0.1}], ["method.ecgr", "`beta`", "-0.1"]),
        ([{"name": "ecgr", "beta": float("nan")}], ["method.ecgr", "`beta`", "nan"]),
        ([{"name": "ecgr", "keep": "half"}], ["method.ecgr", "`keep`", "half"]),
        ([{"name": "ecgr", "select": "best"}], ["method.ecgr", "greedy, norm, random, cosine"]),
        ([{"name": "fedprox", "mu": True}], ["method.fedprox", "`mu`"]),
        (["ecgr", {"name": "ecgr", "beta": 0.5}], ["ecgr stands twice"]),
        ([{"beta": 0.5}], ["with `name`"]),
    ],
)
def test_refusals(method, said):
    with pytest.raises(MedflError) as caught:
        build_chain(method)
    assert all(part in str(caught.value) for part in said), caught.value


def test_names_order_and_description():
    chain = build_chain([{"name": "fedprox", "mu": 0.1}, "ecgr"])
    assert str(chain) == "ecgr+fedprox"
    assert str(build_chain([])) == "fedavg"
    assert chain.describe()[1] == {"name": "fedprox", "mu": 0.1}
    assert chain.acts("modify_gradient")
    assert not build_chain(["ecgr"]).acts("modify_gradient")


def test_the_order_of_links_does_not_matter():
    one, _ = toy_run(["fedprox", "ecgr"])
    two, _ = toy_run(["ecgr", "fedprox"])
    assert torch.equal(one.weights, two.weights)


def test_fedprox_without_mu_is_fedavg_and_with_it_stays_closer():
    start, _ = toy_run(rounds=0)
    plain, records = toy_run(rounds=1)
    neutral, _ = toy_run([{"name": "fedprox", "mu": 0.0}], rounds=1)
    held, prox = toy_run([{"name": "fedprox", "mu": 5.0}], rounds=1)
    torch.testing.assert_close(neutral.weights, plain.weights, rtol=0, atol=1e-6)
    assert (held.weights - start.weights).norm() < (plain.weights - start.weights).norm()
    assert prox[0]["update"]["mean_sq"] < records[0]["update"]["mean_sq"]


def test_fedprox_gradient_by_hand():
    # g = (1, 1), y = (3, 0), w = (1, 2), mu = .5: g + .5 (2, -2) = (2, 0).
    class At:
        vector = torch.tensor([3.0, 0.0])

    local = chain.SiteContext(At, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]), steps=1, lr=1.0, seed=0)
    local.gradient = torch.ones(2)
    build_chain([{"name": "fedprox", "mu": 0.5}]).call("modify_gradient", local)
    assert local.gradient.tolist() == [2.0, 0.0]


def test_fine_tuning_leaves_the_federation_alone_and_measures_where_local_steps_ended():
    plain, records = toy_run(rounds=2)
    tuned, measured = toy_run(["finetune"], rounds=2)
    assert torch.equal(tuned.weights, plain.weights)
    assert [r["update"] for r in measured] == [r["update"] for r in records]
    first, last = measured[0]["sites"]["site-0"], measured[-1]["sites"]["site-0"]
    assert "val_personalised" not in first  # nothing personal yet
    assert last["val"] == records[-1]["sites"]["site-0"]["val"]
    assert last["val_personalised"]["loss"] != last["val"]["loss"]


def test_the_fine_tuned_model_of_a_single_site_is_the_federations():
    """One site: FedAvg's new model is where that site's steps ended, so both are the same model."""
    _, records = toy_run(["finetune"], rounds=2, sizes=(16,))
    entry = records[-1]["sites"]["site-0"]
    assert entry["val_personalised"]["loss"] == pytest.approx(entry["val"]["loss"], rel=1e-5)


@dataclass(frozen=True)
class HalfStep(Method):
    """A third party's link: report half of the way."""

    name: ClassVar[str] = "halfstep"

    def make_update(self, local):
        local.displacement = 0.5 * (local.start - local.model.vector)


def test_a_third_party_link_through_the_entry_point(monkeypatch):
    entry = EntryPoint("halfstep", f"{__name__}:HalfStep", "medfl.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    assert "tests.methods.core.test_chain" in sys.modules
    start, _ = toy_run(rounds=0)
    plain, _ = toy_run(rounds=1)
    half, _ = toy_run(["halfstep"], rounds=1)
    torch.testing.assert_close(
        half.weights - start.weights, 0.5 * (plain.weights - start.weights), rtol=1e-4, atol=1e-6
    )
