"""Every built-in method federates a network over bags as it is, or says why it cannot."""

import numpy as np
import pytest
import torch

from medfl.data.batches import AugmentSpec
from medfl.errors import MedflError
from medfl.federation.asynchronous import SimulatedAsync
from medfl.federation.rounds import Federation
from medfl.federation.virtual_time import SiteSpeed
from medfl.methods.core.chain import build_chain
from medfl.methods.core.registry import built_in_methods
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.site.shared_model import SharedModel
from medfl.site.site import Site
from medfl.testing.toy_federation import sites_needed
from tests.bags import DIM, toy_bag_store
from tests.toys import CLASSES, Recorder, toy_federation, toy_work

SETTINGS = {"dp": {"seeded": True}}
REFUSED = {
    "fedrdn": "changes images",
    "lips": "no trainable convolution",
}
ARGS = {"dim": DIM, "hidden": 8, "attention": 4, "norm": True}


def federate(method, dropout=0.0, rounds=2):
    """(federation, sites, records) after some rounds."""
    chain = build_chain([method] if method else [])
    model = FlatModel(ModelSpec("mil_abmil", CLASSES, ARGS), torch.device("cpu"), seed=1)
    momentum = 0.0 if any(link.replaces_optimiser for link in chain.methods) else 0.9
    chain.check(model, "sgd", momentum, 0.0)
    bench = SharedModel(model, chain)
    work = toy_work(batch_size=4, momentum=momentum, augment=AugmentSpec(bag_dropout=dropout), rounds=rounds)
    names = [f"site-{i}" for i in range(sites_needed(chain))]
    sites = {name: Site(name, "train", toy_bag_store(name, i), work, bench) for i, name in enumerate(names)}
    speeds = {name: SiteSpeed(50.0, 10.0, 0.1) for name in names}
    federation, records = toy_federation(bench, sites, rounds=rounds, site_speeds=speeds)
    if chain.async_schedule(len(names)) is not None:
        parts = (federation.config, federation.transport, federation.state, [Recorder(records)], chain)
        federation = Federation(*parts, SimulatedAsync())
    federation.run()
    return federation, sites, records


@pytest.mark.parametrize("name", [name for name, kind in built_in_methods().items() if not getattr(kind, "arm", "")])
def test_every_method_trains_two_rounds_or_says_why_not(name):
    method = {"name": name, **SETTINGS.get(name, {})}
    if name in REFUSED:
        with pytest.raises(MedflError, match=rf"method\.{name}`.*{REFUSED[name]}"):
            federate(method)
        return
    federation, _, records = federate(method)
    assert torch.isfinite(federation.state.weights).all()
    assert len(records) == 3
    assert all(not record["failures"] for record in records)
    assert 0 <= records[-1]["sites"]["site-0"]["val"]["auroc"] <= 1


def test_dropout_of_tiles_acts_in_training_and_repeats():
    one, again, plain = federate(None, 0.5), federate(None, 0.5), federate(None)
    assert torch.equal(one[0].state.weights, again[0].state.weights)
    assert not torch.equal(one[0].state.weights, plain[0].state.weights)
    site = plain[1]["site-0"]
    logits = site.evaluator.logits(plain[0].state.weights, plain[0].state.buffers, "test")
    assert logits.shape == (len(site.store.splits["test"]), len(CLASSES))
    assert np.isfinite(logits.numpy()).all()
