"""FedBN: what stays, what is shared, what held-out sites get."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from medfl.errors import MedflError
from medfl.messages import EvaluateRequest, Failure
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.method import Method
from medfl.site.site import Site
from tests.toys import toy_bench, toy_federation, toy_sites, toy_store, toy_work


def federation(rounds=2, method=("fedbn",), **changes):
    bench = toy_bench(list(method), backbone="test_resnet")
    work = toy_work(lr=0.02, local_steps=2)
    sites = toy_sites(bench, (16, 24), work)
    return (*toy_federation(bench, sites, rounds=rounds, evaluate_every=9, **changes), bench, sites)


def parts(bench, wire):
    """(normalisation layers, everything else) of a wire vector."""
    mask = torch.zeros(len(wire), dtype=torch.bool)
    for slot in bench.model.norm_slots():
        mask[slot.start : slot.start + slot.numel] = True
    return wire[mask], wire[~mask]


def test_each_site_starts_from_its_own_norms_and_the_shared_rest():
    game, _, bench, sites = federation()
    game.run_round()
    seen = {}
    for name, site in sites.items():
        message = EvaluateRequest(1, game.state.weights, game.state.buffers, ("val",), last_accepted_round=0)
        site.handle(message)
        weights, buffers = site.own_model(game.state.weights, game.state.buffers)
        seen[name] = (*parts(bench, weights), buffers)
        norms, rest = parts(bench, game.state.weights)
        assert torch.equal(seen[name][1], rest)
        assert not torch.equal(seen[name][0], norms)
        assert not torch.equal(seen[name][2], game.state.buffers)
    assert not torch.equal(seen["site-0"][0], seen["site-1"][0])
    # The global norms, those of held-out sites and the registry, are the sample-weighted mean: 16 and 24 patches.
    mean = (16 * seen["site-0"][0] + 24 * seen["site-1"][0]) / 40
    torch.testing.assert_close(parts(bench, game.state.weights)[0], mean, rtol=1e-5, atol=1e-6)
    mean = (16 * seen["site-0"][2] + 24 * seen["site-1"][2]) / 40
    torch.testing.assert_close(game.state.buffers, mean, rtol=1e-5, atol=1e-6)


def test_a_held_out_site_is_measured_with_the_mean_norms():
    game, _, bench, _ = federation()
    game.run_round()
    far = Site("far", "held_out", toy_store("far", 9, train=0), toy_work(), bench)
    far.handle(EvaluateRequest(1, game.state.weights, game.state.buffers, ("test",)))
    assert torch.equal(far.own_model(game.state.weights, game.state.buffers)[0], game.state.weights)


@dataclass(frozen=True)
class Twin(Method):
    """Names the received model itself as a further one."""

    name: ClassVar[str] = "twin"

    def personal_models(self, state, received):
        return {"twin": received}


def test_further_models_are_measured_with_the_sites_own_norms_too():
    game, records, bench, sites = federation()
    bench.chain = MethodChain((*bench.chain.methods, Twin()))
    game.config = dataclasses.replace(game.config, evaluate_every=1)
    game.run()
    for record in records:
        for name in sites:
            assert record["sites"][name]["val_twin"] == record["sites"][name]["val"]


def test_a_lost_reply_leaves_the_norms_as_they_were():
    def run(asked):
        game, _, _, sites = federation(rounds=4)
        call = game.transport.call

        def transport(names, request):
            for name in names:
                lost = (game.state.round, name) == (1, "site-0")
                if asked or not lost:
                    (answer,) = call([name], request)
                else:
                    request(name)
                yield Failure(name, game.state.round, "lost") if lost else answer

        game.transport.call = transport
        for _ in range(3):
            game.run_round()
        return game.state, sites["site-0"].pending[1]["norms"]

    (one, kept), (other, same) = run(True), run(False)
    assert torch.equal(one.weights, other.weights)
    assert torch.equal(kept, same)


def test_it_differs_from_fedavg_and_sends_the_same():
    game, records, _, _ = federation(rounds=2)
    plain, plainly, _, _ = federation(rounds=2, method=())
    assert not torch.allclose(game.run().weights, plain.run().weights, atol=1e-5)
    for ours, theirs in zip(records, plainly, strict=True):
        for name, entry in ours["sites"].items():
            assert {k: entry[k] for k in ("bytes_up", "bytes_down")} == {
                k: theirs["sites"][name][k] for k in ("bytes_up", "bytes_down")
            }


def test_a_backbone_without_norms_is_refused():
    bench = toy_bench(["fedbn"], backbone="test_nfnet")
    with pytest.raises(MedflError, match=r"method\.fedbn.*test_nfnet has no trainable normalisation layer"):
        bench.chain.check(bench.model, "sgd", 0.9, 0.0)
