"""What the server refuses: replies that are not whole, not of this model, not asked for, or too long."""

import dataclasses
import math

import pytest
import torch

from medfl.errors import MedflError
from medfl.federation.reply_checks import reason_to_reject
from medfl.federation.server_state import FederationConfig
from medfl.federation.transport import InProcess
from medfl.messages import Reply
from medfl.methods.core.chain import build_chain
from medfl.methods.core.context import ServerContext
from tests.hand import Hand, play
from tests.toys import toy_bench, toy_federation, toy_sites

PLAN = FederationConfig(("a", "b"), (), rounds=3, seed=0, stages={}, fingerprint="f00d")
GOOD = Reply(
    "a", 1, samples=4, steps=2, update=torch.ones(3), buffers=torch.ones(2), train_loss=0.5, fingerprint="f00d"
)


def judged(method=(), **changes):
    server = ServerContext(torch.zeros(3), ("a", "b"), round=1, buffers=torch.zeros(2))
    return reason_to_reject(dataclasses.replace(GOOD, **changes), server, PLAN, build_chain(method), {"a": 1})


def test_a_whole_reply_is_taken():
    assert judged() is None
    assert judged(train_loss=None) is None
    assert judged(["scaffold"], extra={"scaffold.change": torch.zeros(3)}) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"site": "b"}, "not asked to train in this round, or has replied already"),
        ({"round": 0}, "one to round 0, and the site was asked in round 1"),
        ({"fingerprint": "beef"}, "architecture beef, and the model's is f00d"),
        ({"fingerprint": ""}, "architecture (not stated)"),
        ({"update": None}, "the update has not been sent"),
        ({"update": torch.ones(4)}, "the update has 4 values, the model 3"),
        ({"update": torch.ones(1, 3)}, "the update has shape (1, 3), the model 3"),
        ({"update": torch.ones(3, dtype=torch.float64)}, "the update has type float64, not float32"),
        ({"update": torch.tensor([1.0, math.nan, 0.0])}, "the update has values that are not finite in round 1"),
        ({"update": torch.tensor([1.0, -math.inf, 0.0])}, "not finite"),
        ({"buffers": None}, "the buffers have not been sent"),
        ({"buffers": torch.ones(3)}, "the buffers have 3 values, the model 2"),
        ({"buffers": torch.tensor([math.inf, 0.0])}, "the buffers have values that are not finite"),
        ({"extra": {"more": torch.tensor([math.nan])}}, "`more` has values that are not finite"),
        ({"samples": 0}, "counts 0 training samples and 2 steps"),
        ({"samples": -3}, "counts -3 training samples"),
        ({"steps": 0}, "counts 4 training samples and 0 steps"),
        ({"samples": 10**12}, "counts 1000000000000 training samples"),
        ({"train_loss": math.nan}, "the training loss is not finite"),
        ({"train_loss": 1e300}, "the training loss is not finite"),
    ],
)
def test_what_is_refused(changes, said):
    assert said in judged(**changes)


def test_a_link_states_what_a_reply_must_carry():
    assert "`scaffold.change` has not been sent" in judged(["scaffold"])
    assert "2 values, the model 3" in judged(["scaffold"], extra={"scaffold.change": torch.zeros(2)})


def test_a_site_with_another_backbone_is_a_named_failure():
    """Its update might even have the right length; the round goes on without it."""
    bench, other = toy_bench(), toy_bench(seed=1)
    other.model._fingerprint = "another"
    sites = toy_sites(bench)
    sites["site-1"].shared = other
    federation, records = toy_federation(bench, sites, rounds=1, fingerprint=bench.model.fingerprint())
    federation.run()
    (failure,) = records[0]["failures"]
    assert failure["site"] == "site-1"
    assert failure["reason"].startswith(
        f"the update is of architecture another, and the model's is {bench.model.fingerprint()}"
    )
    assert records[0]["counted"]


class Twice(InProcess):
    """Delivers every reply twice."""

    def __init__(self, sites, lost=()):
        super().__init__(sites)

    def call(self, sites, request):
        for answer in super().call(sites, request):
            yield answer
            yield answer


def test_a_second_reply_of_a_site_counts_nothing():
    once, twice = play(), play(transport=Twice)
    assert once.rounds(2) == twice.rounds(2)
    assert {f["reason"] for f in twice.records[0]["failures"]} == {judged(site="b")}


# --------------------------------------------------------------------------------------------------------- the guard

PULL = {name: Hand(2, target=(k / 5, 0.0, 1.0), curvature=(1.0, 1.0, 1.0)) for k, name in enumerate("abc")}


class Scaled(InProcess):
    """Multiplies the updates of (round, site)."""

    def __init__(self, sites, lost=()):
        super().__init__(sites)
        self.factors = dict(lost)

    def call(self, sites, request):
        for answer in super().call(sites, request):
            factor = self.factors.get((answer.round, answer.site), 1.0)
            yield dataclasses.replace(answer, update=answer.update * factor)


def test_the_guard_refuses_by_name_with_both_figures():
    # Steps of lr .5 on curvature 1: after one round the way left is a quarter, so lengths fall by 4 a round.
    game = play(["norm_guard"], PULL, transport=Scaled, lost={(1, "b"): 100.0}.items())
    lengths = [game.federation.state.weights.clone()]
    game.rounds(2)
    (failure,) = game.records[1]["failures"]
    first = [0.75 * torch.linalg.vector_norm(lengths[0] - torch.tensor(PULL[name].target)) for name in PULL]
    limit = 5 * float(sorted(first)[1])
    assert failure["site"] == "b"
    assert f"above the limit of {limit:.4g}: 5 times the median of the last 3 rounds" in failure["reason"]
    assert set(game.state.accepted) == {"a", "b", "c"}
    assert game.state.accepted["b"] == 0


@pytest.mark.parametrize(
    ("update", "change", "said"),
    [
        (4.9, 0.4, None),
        (5.1, 0.4, "the update has length 5.1, above the limit of 5: 5 times the median"),
        (4.9, 0.6, "the change of the buffers has length 0.6, above the limit of 0.5"),
    ],
)
def test_the_limit_by_hand(update, change, said):
    # lengths 1, 1, 9 and changes .1, .1, .3: medians 1 and .1, times 5.
    facts = {"norm_guard": [[[1.0, 0.1], [9.0, 0.1]], [[1.0, 0.3]]]}
    server = ServerContext(torch.zeros(1), ("a",), round=1, buffers=torch.tensor([7.0]), json_state=facts)
    reply = dataclasses.replace(GOOD, update=torch.tensor([-update]), buffers=torch.tensor([7.0 - change]))
    reason = reason_to_reject(reply, server, PLAN, build_chain(["norm_guard"]), {"a": 1})
    assert reason is None if said is None else reason.startswith(said)


def test_the_guard_has_no_median_in_the_first_round():
    game = play(["norm_guard"], PULL, transport=Scaled, lost={(0, "b"): 100.0}.items())
    game.rounds(2)
    assert not game.records[0]["failures"]


def test_what_was_refused_does_not_move_the_median_and_old_rounds_are_forgotten():
    game = play(["norm_guard"], PULL, rounds=9, transport=Scaled, lost={(t, "b"): 1e6 for t in range(1, 9)}.items())
    game.rounds(6)
    remembered = game.state.json_state["norm_guard"]
    assert [len(lengths) for lengths in remembered] == [2, 2, 2]
    assert max(pair[0] for lengths in remembered for pair in lengths) < 1
    assert all(len(record["failures"]) == 1 for record in game.records[1:])


def test_a_guard_that_never_refuses_changes_nothing():
    assert play(["norm_guard"], PULL).rounds(4) == play([], PULL).rounds(4)


def test_a_round_that_does_not_count_leaves_the_median():
    game = play(["norm_guard"], PULL, quorum=1.0, transport=Scaled, lost={(1, "b"): 100.0}.items())
    game.rounds(1)
    before = game.state.json_state["norm_guard"]
    game.rounds(1)
    assert not game.records[1]["counted"]
    assert game.state.json_state["norm_guard"] == before


@pytest.mark.parametrize("name", ["norm_guard", "norm_clip"])
def test_refused_parameters(name):
    for key, value, said in (("factor", 0.5, "at least 1"), ("window", 0, "at least 1"), ("window", 1.5, "whole")):
        with pytest.raises(MedflError, match=said):
            build_chain([{"name": name, key: value}])
