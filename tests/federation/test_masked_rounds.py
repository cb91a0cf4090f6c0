"""Rounds behind masks: the same model as without, whoever drops out, and a server that sees one update of nobody."""

import dataclasses

import numpy as np
import pytest
import torch

from medfl.errors import RunFailed
from medfl.federation.checked_transport import CheckedTransport
from medfl.federation.masked_rounds import MaskedRounds
from medfl.federation.rounds import Federation
from medfl.federation.server_state import FederationConfig, ServerState
from medfl.federation.transport import InProcess
from medfl.messages import Failure, KeyRequest, Reply, TrainRequest, UnmaskRequest
from medfl.methods.core.chain import build_chain
from medfl.site.masking import Masking
from tests.toys import CLASSES, Recorder

SIZES = (8, 12, 16, 20, 24)
SIZE = 3000


class Dropping:
    """A transport in which sites fail at a kind of request, and that keeps what the server is sent."""

    def __init__(self, sites, failing, kind):
        self.inner = CheckedTransport(InProcess(sites), CLASSES, 15)
        self.failing, self.kind, self.seen = failing, kind, []

    def call(self, sites, request):
        for name in sites:
            message = dataclasses.replace(request(name), splits=())
            if name in self.failing and isinstance(message, self.kind):
                yield Failure(name, message.round, "gone")
                continue
            (answer,) = self.inner.call([name], lambda _, message=message: message)
            self.seen.append((message, answer))
            yield answer


class Made:
    """A site with a prepared update; behind masks where `masking` is not None."""

    def __init__(self, name, samples, size, masked, equally):
        draw = torch.Generator().manual_seed(samples)
        self.name, self.samples, self.equally = name, samples, equally
        self.update, self.buffers = torch.randn(size, generator=draw) / 100, torch.randn(40, generator=draw)
        self.masking = Masking(name) if masked else None

    def handle(self, request):
        return self.masking.answer(request, self.plain, self.equally) if self.masking else self.plain(request)

    def plain(self, request):
        if not isinstance(request, TrainRequest):
            return Reply(self.name, request.round)
        done = {"samples": self.samples, "steps": 1, "train_loss": 1.0}
        return Reply(self.name, request.round, update=self.update, buffers=self.buffers, **done)


def play(method=(), masked=True, failing=(), kind=TrainRequest, rounds=2, sites=5):
    """(state, records, transport or what a failed run said); the `failing` sites fail at one kind of request."""
    chain, names = build_chain(method), [f"site-{i}" for i in range(sites)]
    made = {name: Made(name, SIZES[i], SIZE, masked, chain.weighs_equally) for i, name in enumerate(names)}
    transport = Dropping(made, set(failing), kind)
    settings = {"held_out_sites": (), "seed": 3, "stages": {}, "quorum": 0.4, "masked": masked}
    config = FederationConfig(train_sites=tuple(names), rounds=rounds, evaluate_every=9, **settings)
    records, state = [], ServerState(0, torch.zeros(SIZE), torch.zeros(40))
    schedule = MaskedRounds() if masked else None
    federation = Federation(config, transport, state, [Recorder(records)], chain, schedule)
    try:
        federation.run()
    except RunFailed as error:
        return state, records, str(error)
    return state, records, transport


@pytest.mark.parametrize("method", [(), ["feddyn"]])
@pytest.mark.parametrize("failing", [(), ("site-3",), ("site-0", "site-4")])
def test_the_model_is_that_of_the_plain_sum_whoever_drops_out(failing, method):
    """They announce a key in the first round and then send no update; the others unmask the sum without them."""
    (plain, _, _), (state, records, _) = (play(method, masked=masked, failing=failing) for masked in (False, True))
    assert [record["counted"] for record in records] == [True, True, False]
    assert {f["site"] for f in records[0]["failures"]} == set(failing)
    torch.testing.assert_close(state.weights, plain.weights, rtol=3e-6, atol=3e-7)
    torch.testing.assert_close(state.buffers, plain.buffers, rtol=3e-6, atol=3e-7)
    assert records[0]["update"]["mean_sq"] is None
    assert records[0]["sites"]["site-2"]["samples"] == 16


def test_too_few_survivors_end_the_run_in_one_sentence():
    state, records, said = play(failing=("site-0", "site-1", "site-2"), rounds=3)
    assert not any(record["counted"] for record in records)
    assert "site-3: 2 of 5 sites sent masked updates, and it takes 3 to unmask a sum" in said
    assert torch.equal(state.weights, torch.zeros(SIZE))


def test_a_site_lost_before_it_reveals_its_seeds_costs_the_round_and_says_so():
    _, records, said = play(failing=("site-1",), kind=UnmaskRequest, rounds=3)
    assert "site-1 failed (gone), without whom the masked sum of this round cannot be unmasked" in said
    assert not records[0]["counted"]


def test_a_site_without_a_key_is_left_out():
    state, records, _ = play(failing=("site-1",), kind=KeyRequest)
    plain, _, _ = play(masked=False, failing=("site-1",))
    assert records[0]["failures"] == [{"site": "site-1", "reason": "gone"}]
    torch.testing.assert_close(state.weights, plain.weights, rtol=3e-6, atol=3e-7)


def test_two_sites_do_not_train_behind_masks():
    _, records, said = play(sites=2, rounds=3)
    assert "2 sites have told a key, and a masked sum takes 3" in said
    assert not records[0]["counted"]


def test_the_server_sees_masked_vectors_only_and_one_says_nothing_of_the_update():
    """As numbers in fixed point, an update is small and a masked one is uniform over all that 64 bits hold."""
    _, _, transport = play(rounds=1)
    _, _, bare = play(rounds=1, masked=False)
    trained = {a.site: a for m, a in transport.seen if isinstance(m, TrainRequest)}
    plain = {a.site: a for m, a in bare.seen if isinstance(m, TrainRequest)}
    assert len(trained) == len(SIZES)
    for name, reply in trained.items():
        assert reply.update is None
        assert reply.buffers is None
        assert reply.vectors().keys() == {"masked"}
        words = reply.masked.numpy()
        update = torch.cat([plain[name].update, plain[name].buffers]).numpy()
        assert abs(np.corrcoef(words.astype(np.float64), update)[0, 1]) < 5 / np.sqrt(len(words))
        shares = np.histogram(words.astype(np.float64), bins=8, range=(-(2.0**63), 2.0**63))[0] / len(words)
        assert np.abs(shares - 1 / 8).max() < 5 * np.sqrt(7 / 64 / len(words))
    kinds = [type(m) for m, a in transport.seen if a.site == "site-0"]
    assert kinds == [KeyRequest, TrainRequest, UnmaskRequest, *kinds[3:]]
    assert not {TrainRequest, KeyRequest, UnmaskRequest} & set(kinds[3:])


def test_with_dp_sites_weigh_the_same_behind_masks():
    still = [{"name": "dp", "clip": 100.0, "noise": 1e-9, "seeded": True}]
    (state, _, _), (plain, _, _) = play(still, rounds=1), play(still, masked=False, rounds=1)
    torch.testing.assert_close(state.weights, plain.weights, rtol=3e-6, atol=3e-7)
    assert not torch.allclose(state.weights, play(rounds=1)[0].weights, rtol=1e-2)


@pytest.mark.parametrize("change", [{"masked": None}, {"masked": torch.zeros(3, dtype=torch.int64)}])
def test_an_update_that_is_not_masked_as_it_should_be_is_refused(change, monkeypatch):
    whole = Made.handle

    def odd(site, request):
        reply = whole(site, request)
        if site.name != "site-0" or not isinstance(request, TrainRequest):
            return reply
        return dataclasses.replace(reply, update=request.weights, buffers=request.buffers, **change)

    monkeypatch.setattr(Made, "handle", odd)
    _, records, _ = play(rounds=1)
    (failure,) = records[0]["failures"]
    assert failure["site"] == "site-0"
    assert "the update is sent as it is" in failure["reason"] or "has 3 values" in failure["reason"]
    assert records[0]["counted"]


def test_a_reply_that_reveals_what_was_not_asked_for_is_refused():
    checked = CheckedTransport(InProcess({}), CLASSES, 15)
    nothing = torch.zeros(0)
    seed = "ab" * 32
    for request, masking, good in (
        (KeyRequest(0, nothing, nothing), {"key": seed}, True),
        (KeyRequest(0, nothing, nothing), {"key": seed[2:]}, False),
        (KeyRequest(0, nothing, nothing), {}, False),
        (UnmaskRequest(0, nothing, nothing), {"own_seed": seed, "pair_a": seed}, True),
        (UnmaskRequest(0, nothing, nothing), {"pair_a": seed}, False),
        (TrainRequest(0, nothing, nothing), {"own_seed": seed}, False),
    ):
        answer = checked.checked(request, Reply("a", 0, masking=masking))
        assert isinstance(answer, Reply) == good, (request, masking)
