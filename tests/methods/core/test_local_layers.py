"""What stays at a site is left alone by every method: poisoned requests and replies, vandals, neutral settings."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from medfl.errors import MedflError
from medfl.messages import Reply
from medfl.methods.core.chain import MethodChain, build_chain
from medfl.methods.core.local_layers import LocalLayers
from medfl.methods.core.method import Method
from medfl.methods.core.registry import built_in_methods
from medfl.methods.fedbn import FedBN
from medfl.model.layout import Slot
from medfl.testing.toy_federation import toy_run

POISON = 1e3


def beside_fedbn(name, **parameters):
    return build_chain(["fedbn", {"name": name, **parameters}])


def compatible():
    found = []
    for name in built_in_methods():
        try:
            beside_fedbn(name)
        except MedflError:
            continue
        found.append(name)
    return found


COMPATIBLE = [name for name in compatible() if name != "fedbn"]


def poisoned(run, of_request=None, of_reply=None):
    """Let the values that stay at sites be changed in every request or reply from now on."""
    call, wire = run.transport.call, run.chain.local_layers.wire

    def with_poison(vector):
        if vector.numel() != run.state.weights.numel():
            return vector
        vector = vector.clone()
        vector[wire] = POISON if vector.is_floating_point() else False
        return vector

    def ask(names, request):
        def changed(name):
            message = request(name)
            message = dataclasses.replace(message, weights=with_poison(message.weights))
            if hasattr(message, "extra"):
                message = dataclasses.replace(message, extra={k: with_poison(v) for k, v in message.extra.items()})
            return message

        for answer in call(names, changed if of_request else request):
            if of_reply and isinstance(answer, Reply) and answer.update is not None:
                answer = dataclasses.replace(answer, update=with_poison(answer.update))
            yield answer

    run.transport.call = ask
    return run


def trained(run, site):
    """What a site's last local training left, whether or not the server took it."""
    memory = run.sites[site].memory()
    return memory.pending.state if memory.pending else memory.state


def shared_part(run):
    weights = run.state.weights.clone()
    weights[run.chain.local_layers.wire] = 0.0
    return weights


def test_most_methods_go_with_fedbn():
    assert {"fedprox", "scaffold", "ecgr", "fedsam", "fedlesam", "moon", "krum", "fedgmr"} <= set(COMPATIBLE)
    assert not {"dp", "pflalign", "fednova", "feddyn"} & set(COMPATIBLE)


@pytest.mark.parametrize("name", COMPATIBLE)
def test_nothing_that_the_server_says_of_local_layers_is_heard(name):
    """With poison in their place in every request the sites train, bit for bit, to the same layers and states."""
    plain, other = (toy_run(beside_fedbn(name)).rounds(2) for _ in range(2))
    assert any("norms" in plain.site_state(site) for site in plain.sites)
    plain.rounds(1)
    poisoned(other, of_request=True).rounds(1)
    for site in plain.sites:
        ours, theirs = trained(plain, site), trained(other, site)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("name", COMPATIBLE)
def test_what_a_site_sends_of_its_layers_moves_no_shared_weight(name):
    plain, other = (toy_run(beside_fedbn(name)) for _ in range(2))
    plain.rounds(1)
    poisoned(other, of_reply=True).rounds(1)
    assert plain.records[0]["counted"]
    assert torch.equal(shared_part(plain), shared_part(other))
    assert plain.records[0]["update"]["sq"] == other.records[0]["update"]["sq"]
    assert plain.records[0]["update"]["mean_sq"] == other.records[0]["update"]["mean_sq"]


@pytest.mark.parametrize("name", [n for n in COMPATIBLE if built_in_methods()[n].neutral is not None])
def test_in_a_neutral_setting_layers_train_as_with_fedbn_alone(name):
    ours = toy_run(beside_fedbn(name, **built_in_methods()[name].neutral)).rounds(3)
    alone = toy_run(build_chain(["fedbn"])).rounds(3)
    for site in alone.sites:
        torch.testing.assert_close(ours.site_state(site)["norms"], alone.site_state(site)["norms"], rtol=0, atol=1e-6)


def test_a_pull_that_has_nothing_to_pull_leaves_fedbn_as_it_is():
    """One step a round begins at the received model, so FedProx has no effect, on layers of the site's own neither."""

    def final(method):
        run = toy_run(build_chain(method))
        for site in run.sites.values():
            site.training = dataclasses.replace(site.training, local_steps=1)
        return run.rounds(3)

    alone, beside = final(["fedbn"]), final(["fedbn", {"name": "fedprox", "mu": 5.0}])
    torch.testing.assert_close(beside.state.weights, alone.state.weights, rtol=0, atol=1e-6)
    for site in alone.sites:
        torch.testing.assert_close(beside.site_state(site)["norms"], alone.site_state(site)["norms"], rtol=0, atol=1e-6)


def test_control_variates_have_no_part_in_what_is_never_averaged():
    run = toy_run(beside_fedbn("scaffold")).rounds(2)
    wire = run.chain.local_layers.wire
    assert run.state.tensors["scaffold.c"].abs().max() > 0
    for variate in (run.state.tensors["scaffold.c"], *(run.site_state(s)["scaffold.own"] for s in run.sites)):
        assert not variate[wire].any()


@pytest.mark.parametrize("name", ["ecgr", "scaffold", "fedbuff", "fedavgm", "fedadam", "lips", "fedgmr", "norm_guard"])
def test_the_global_layers_are_the_mean_of_the_sites(name):
    """Whatever the method makes of updates: its steps, weights and server optimiser are for what is shared."""
    run = toy_run(beside_fedbn(name)).rounds(1)
    samples = {site: entry["samples"] for site, entry in run.records[0]["sites"].items() if "samples" in entry}
    mean = sum(n * run.site_state(site)["norms"] for site, n in samples.items()) / sum(samples.values())
    torch.testing.assert_close(run.state.weights[run.chain.local_layers.wire], mean, rtol=1e-5, atol=1e-6)


@dataclass(frozen=True)
class Vandal(Method):
    """A third party's method that writes to every vector it is shown."""

    name: ClassVar[str] = "vandal"

    def before_training(self, local):
        local.model.vector.add_(1.0)

    def perturb(self, local):
        local.model.vector.mul_(3.0)

    def ascend(self, local):
        local.model.vector.add_(local.gradient, alpha=2.0)

    def modify_gradient(self, local):
        local.gradient.add_(5.0)

    def after_step(self, local):
        local.model.vector.sub_(0.5)

    def make_update(self, local):
        local.displacement = torch.full_like(local.start, 9.0)

    def server_step(self, server, update):
        return update + 7.0


def test_a_method_that_writes_everywhere_moves_no_layer():
    """Without a learning rate only the vandal moves anything."""
    run = toy_run(MethodChain((FedBN(), Vandal())))
    wire, start = run.chain.local_layers.wire, run.state.weights.clone()
    for site in run.sites.values():
        site.training = dataclasses.replace(site.training, lr=0.0)
    run.rounds(2)
    assert not torch.allclose(run.state.weights, start)
    torch.testing.assert_close(run.state.weights[wire], start[wire])
    for site in run.sites:
        assert torch.equal(run.site_state(site)["norms"], start[wire])


def test_hidden_and_taken_out_by_hand():
    # Native: a at 0 and 1, b at 16 and 17; b stays at the site. On the wire: a, b.
    layers = LocalLayers.of([Slot("b", torch.Size([2]), 16, 2, False)])
    vector = torch.arange(32.0)
    with layers.hidden([vector, None, vector]):
        assert vector[15:19].tolist() == [15.0, 0.0, 0.0, 18.0]
        vector.add_(1.0)
    assert vector[15:19].tolist() == [16.0, 16.0, 17.0, 19.0]
    # w = (1, 2, 3, 4), e = (1, 1, 5, 6): the update w - e is (0, 1, -2, -2), and the layers are (5, 6).
    reply = Reply("s", 0, update=torch.tensor([0.0, 1.0, -2.0, -2.0]), buffers=torch.tensor([9.0]))
    seen = layers.taken_out(reply, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert seen.update.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert seen.buffers.tolist() == [9.0, 5.0, 6.0]
    weights, buffers = layers.put_back(torch.tensor([1.0, 1.0, 3.0, 4.0]), seen.buffers)
    assert (weights.tolist(), buffers.tolist()) == ([1.0, 1.0, 5.0, 6.0], [9.0])
    assert LocalLayers.of([]).taken_out(reply, torch.zeros(4)) is reply
