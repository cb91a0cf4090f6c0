"""FedGMR: the authors' numbers, hand-computed cases, a whole round by hand, neutral settings, masks that hold."""

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.methods.core.method import Method
from medfl.methods.fedgmr import FedGMR, Restoration, aggregate, maskable_slots, nested_masks
from medfl.site.shared_model import SharedModel
from tests.hand import Lossy, play
from tests.paths import VECTORS
from tests.toys import toy_bench, toy_federation, toy_sites, toy_work

needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="the expected numbers are not beside the repository")
SYNC = {"name": "fedgmr", "schedule": "sync"}


# ------------------------------------------------------------------------------------------------------------- masks


@needs_vectors
def test_masks_of_the_vectors():
    z = np.load(VECTORS / "fedgmr_mask.npz")
    rhos = [0.05, 0.1, 0.2, 0.5, 1.0]
    layers = [[z[f"{kind}{i}"] for i in range(3)] for kind in ("weight", "importance")]
    masks = nested_masks(*layers, rhos, float(z["floor"]))
    by_name = nested_masks(*layers, {f"{rho}": rho for rho in rhos}, float(z["floor"]))
    for rho, mask in zip(rhos, masks, strict=True):
        for i in range(3):
            np.testing.assert_array_equal(mask[i], z[f"mask_{rho}_{i}"])
            np.testing.assert_array_equal(by_name[str(rho)][i], z[f"mask_{rho}_{i}"])


def test_masks_by_hand():
    # N = 7. Kept by |W|: -3 in the first layer, 5 in the second. The rest by importance: 9, 8, 4, 2, 1.
    weights = [torch.tensor([1.0, -3.0, 2.0]), torch.tensor([[5.0, 0.1], [0.2, 0.3]])]
    importances = [torch.tensor([2.0, 0.0, 9.0]), torch.tensor([[0.0, 1.0], [8.0, 4.0]])]
    small, middle, whole = nested_masks(weights, importances, [0.1, 0.6, 1.0])
    assert [m.tolist() for m in small] == [[False, True, False], [[True, False], [False, False]]]  # floor above density
    assert [m.tolist() for m in middle] == [[False, True, True], [[True, False], [True, False]]]  # int(4.2) = 4
    assert all(bool(m.all()) for m in whole)
    (one,) = nested_masks([torch.arange(10.0)], [torch.arange(10.0)], [0.35], floor=0.0)
    assert one[0].tolist() == [False] * 7 + [True] * 3  # one layer, no floor, int(3.5) = 3


def test_masks_are_nested_and_have_their_size_in_any_order():
    torch.manual_seed(0)
    weights = [torch.randn(40), torch.randn(6, 5), torch.zeros(30)]
    importances = [torch.rand(40), torch.rand(6, 5), torch.zeros(30)]
    rhos = [0.5, 0.11, 1.0, 0.23]
    masks = [torch.cat([m.flatten() for m in layers]) for layers in nested_masks(weights, importances, rhos, 0.02)]
    assert [int(m.sum()) for m in masks] == [int(rho * 100) for rho in rhos]
    ordered = [masks[i] for i in (1, 3, 0, 2)]
    assert all(bool((small <= large).all()) for small, large in pairwise(ordered))


def test_masks_refuse_densities_out_of_range():
    for rho in (0.0, 1.5, -0.1):
        with pytest.raises(ValueError, match="densities"):
            nested_masks([torch.ones(3)], [torch.ones(3)], [rho])
    with pytest.raises(ValueError, match="same shapes"):
        nested_masks([torch.ones(3)], [torch.ones(4)], [0.5])


def test_biases_norms_and_the_classifier_are_not_cut():
    for backbone in ("test_byobnet", "test_vit"):
        model = toy_bench(backbone=backbone).model
        names = {slot.name for slot in maskable_slots(model)}
        assert len(names) > 5
        assert all(name.endswith(".weight") for name in names)
        assert not names & {slot.name for slot in model.norm_slots()}
        assert not any(name.startswith("head") for name in names)


# -------------------------------------------------------------------------------------------------------- aggregation


@needs_vectors
def test_aggregation_of_the_vectors():
    z = np.load(VECTORS / "fedgmr_aggregate.npz")
    merged = aggregate(z["previous"], z["last"], z["mask"], z["age"], z["samples"], float(z["exponent"]))
    np.testing.assert_allclose(merged, z["expected"], rtol=1e-13, atol=1e-14)
    assert merged.dtype == torch.float64


def test_aggregation_by_hand():
    # ages 0 and 3 with exponent .5: s = 1, 1/2, so p n = 2/3 * 1 and 1/3 * 4, a ratio of 1 to 2.
    previous, last = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[4.0, 5.0, 0.0], [10.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    arguments = (previous, last, mask, [0, 3], [1, 4], 0.5)
    torch.testing.assert_close(aggregate(*arguments), torch.tensor([8.0, 5.0, 3.0]))
    # all sites: 1 + (3 + 2 * 9) / 3; 2 + 3 / 3; zeros counted: 24 / 3, 5 / 3, 0.
    torch.testing.assert_close(aggregate(*arguments, rule="all_sites"), torch.tensor([8.0, 3.0, 3.0]))
    torch.testing.assert_close(aggregate(*arguments, rule="zero_filled"), torch.tensor([8.0, 5 / 3, 0.0]))


def test_one_site_and_ages_of_zero():
    previous, last = torch.zeros(2, dtype=torch.float64), torch.tensor([[3.0, 4.0]])
    one = aggregate(previous, last, torch.tensor([[True, False]]), [7], [5])
    assert one.tolist() == [3.0, 0.0]
    both = aggregate(previous, last.repeat(2, 1) * torch.tensor([[1.0], [3.0]]), torch.ones(2, 2), [0, 0], [1, 1])
    assert both.tolist() == [6.0, 8.0]


# -------------------------------------------------------------------------------------------------------- restoration


@needs_vectors
@pytest.mark.parametrize("case", range(4))
def test_restoration_of_the_vectors(case):
    facts = json.loads((VECTORS / "fedgmr_restoration.json").read_text())[case]
    trigger = Restoration(facts["initial_density"], facts["patience"])
    seen = zip(facts["server_accuracy"], facts["site_accuracy"], facts["expected"], strict=True)
    for server, sites, expected in seen:
        assert trigger.observe(server, sites) == (expected["floor"], expected["density"])
        trigger = Restoration.of(json.loads(json.dumps(vars(trigger))))


def test_a_site_climbs_its_ladder_and_rests_twice_its_patience():
    # Patience 2: evaluation 0 sets the best, 1 and 2 are no improvement, so 2 steps; then a rest of 4 evaluations.
    trigger = Restoration([0.1, 0.5], 2)
    told = [trigger.observe(0.1 * k, [0.5, 0.1 * k])[1] for k in range(8)]
    assert told == [[0.1, 0.5]] * 2 + [[0.5, 0.5]] * 4 + [[1.0, 0.5]] * 2


def test_a_site_not_scored_again_has_not_improved():
    given = Restoration([0.1, 1.0], 2)
    absent = Restoration([0.1, 1.0], 2)
    for k in range(9):
        one = given.observe(0.1 * k, [0.5, 0.1 * k])
        assert absent.observe(0.1 * k, [None if k % 4 else 0.5, 0.1 * k]) == one
    never = Restoration([0.1], 2)
    assert [never.observe(0.1 * k, [None])[1] for k in range(3)] == [[0.1], [0.1], [1.0]]


def test_an_exact_repeat_of_the_servers_figure_is_ignored():
    def floors(figures):
        trigger = Restoration([0.1, 1.0], 2)
        return [trigger.observe(a, [0.01 * k, 0.01 * k])[0] for k, a in enumerate(figures)]

    # Best at 0; 1 and 2 arm the trigger; 3 and 4 are the plateau.
    assert floors([0.5, 0.41, 0.42, 0.43, 0.44]) == [0.02] * 4 + [0.1]
    assert floors([0.5, 0.41, 0.41, 0.42, 0.42, 0.42, 0.43, 0.44]) == [0.02] * 7 + [0.1]
    assert floors([0.5] * 20) == [0.02] * 20


def test_a_step_of_the_floor_makes_everything_rest():
    # Floor at 4, then patience - 1 = 1 evaluation unseen, then best anew at 6, counted at 7, 8.
    trigger = Restoration([0.1, 0.5, 1.0], 2)
    floors = [trigger.observe(0.5 - 0.001 * k, [0.01 * k] * 3)[0] for k in range(12)]
    assert floors == [0.02] * 4 + [0.1] * 4 + [0.5] * 4


# ------------------------------------------------------------------------------------------------- in the federation


def cut(chain, people=None, densities=None, **plan):
    """The hand-made federation with the sites' densities stated."""
    return play(chain, people, densities=densities or {}, **plan)


def test_a_round_of_two_sites_by_hand():
    # near has density .4 of three weights: the floor keeps one in the stem, 4, and one in the body, |-3| > |2|, and
    # int(.4 * 3) = 1 is below that: M = (1, 0, 1), start (4, 0, -3). far has the whole model.
    # near: steps (2, 0, -.4), (1, 0, -.36); far: (.3, 1, -.6), (.27, .5, -.48). ECGR keeps the shorter second one
    # and .2 of the first: near u = (1.4, 0, -.44), far u = (.33, .7, -.6), each to the length of its plain sum,
    # (3, 0, -.76) and (.57, 1.5, -1.08).
    p = cut([SYNC, "ecgr"], densities={"near": 0.4, "far": 1.0})
    ((first, second, third),) = p.rounds(1)
    near, far = math.sqrt(9.5776 / 2.1536), math.sqrt(3.7413 / 0.9589)
    # 2 and 6 patches: merged (near + 3 far) / 4 where both hold the weight, far alone for the second.
    assert first == pytest.approx(((4 - 1.4 * near) + 3 * (4 - 0.33 * far)) / 4, abs=1e-6)
    assert second == pytest.approx(2 - 0.7 * far, abs=1e-6)
    assert third == pytest.approx(((-3 + 0.44 * near) + 3 * (-3 + 0.6 * far)) / 4, abs=1e-6)
    assert [first, second, third] == pytest.approx([2.773025, 0.617317, -1.879159], abs=1e-6)


def test_the_last_update_of_an_absent_site_is_merged_with_its_age():
    # Round 1 loses near: its update of round 0 counts with age 1, s = 2^-1. No mask, no ECGR.
    p = cut([SYNC | {"exponent": 1.0}], transport=Lossy, lost={(1, "near")})
    (w1,) = p.rounds(1)
    last = p.state.tensors["fedgmr.last.near"]
    w2 = torch.tensor(p.rounds(1)[0])
    far = p.state.tensors["fedgmr.last.far"]
    # s = 1/2 and 1, samples 2 and 6: (1/2 * 2 near + 6 far) / 7
    torch.testing.assert_close(w2, (last + 6 * far) / 7, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(w1), (2 * last + 6 * torch.tensor([3.43, 0.5, -1.92])) / 8)


def test_the_last_models_of_the_sites_lie_in_files_that_go_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    p = cut([SYNC])
    p.rounds(1)
    before = mapped(tmp_path)
    assert {t.data_ptr() for name, t in p.state.tensors.items() if name.startswith("fedgmr.last.")} <= before
    p.rounds(3)
    assert len(mapped(tmp_path)) == len(before) == 2
    assert not list(tmp_path.iterdir())
    p.state.tensors.clear()
    del p
    assert not mapped(tmp_path)


def mapped(folder: Path) -> set[int]:
    """Where the memory begins that is backed by files below a folder."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {int(line.split("-")[0], 16) for line in lines if str(folder) in line}


def test_bytes_by_hand():
    # Three weights: the whole model is 12 bytes. near keeps 2 of 3: 8 bytes, and 3 bits of mask, 1 byte,
    # when it is new.
    p = cut([SYNC], densities={"near": 0.4}, evaluate_every=10)
    p.rounds(4)
    down = [[r["sites"][site]["bytes_down"] for site in ("near", "far")] for r in p.records]
    up = [[r["sites"][site]["bytes_up"] for site in ("near", "far")] for r in p.records]
    assert up == [[8, 12]] * 4
    # The masks are cut at the start, and again after the evaluation of round 0. There dW * W =
    # W1 = (2.77, .62, -1.88) - W0 = (4, 2, -3) gives the same floor, (1, 0, 1): not new.
    assert down == [[9, 12]] + [[8, 12]] * 3


def test_neutral_settings_are_fedavg():
    def end(chain):
        bench = toy_bench(chain, backbone="test_resnet")
        sites = toy_sites(bench, sizes=(16, 8), work=toy_work(lr=0.01))
        return toy_federation(bench, sites, rounds=3)[0].run()

    fedavg, gmr = end([]), end([SYNC | {"exponent": 0.0, "patience": 1}])
    torch.testing.assert_close(gmr.weights, fedavg.weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(gmr.buffers, fedavg.buffers, rtol=0, atol=1e-6)


@dataclass(frozen=True)
class Watch(Method):
    """Looks at every step: are the masked weights zero, and do the others move?"""

    name: ClassVar[str] = "watch"
    seen: ClassVar[list] = []

    def after_step(self, local):
        mask = local.extra.get("fedgmr.mask")
        if mask is not None:
            weights = local.model.weights()
            self.seen.append((mask, bool((weights[~mask] == 0).all()), float(weights[mask].abs().sum())))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_masked_weights_never_move_and_masks_are_nested(optimizer):
    Watch.seen.clear()
    chain = build_chain([SYNC, {"name": "fedprox", "mu": 1.0}, "ecgr"])
    chain = type(chain)((*chain.methods, Watch()))
    bench = SharedModel(toy_bench().model, chain)
    density = {"site-0": 0.1, "site-1": 0.4, "site-2": 1.0}
    work = toy_work(optimizer=optimizer, lr=0.01, weight_decay=0.1)
    federation, records = toy_federation(bench, toy_sites(bench, work=work), rounds=2, densities=density)
    federation.run()
    assert len(Watch.seen) == 2 * (3 + 2)
    assert all(still for _, still, _ in Watch.seen)
    assert len({moved for _, _, moved in Watch.seen}) == len(Watch.seen)
    masks = [mask for mask, _, _ in Watch.seen]
    total = sum(slot.numel for slot in maskable_slots(bench.model))
    for small, large in ((masks[0], masks[3]), (masks[5], masks[8])):
        assert bool((small <= large).all())
        assert int((~small).sum()) == total - int(0.1 * total)
        assert int((~large).sum()) == total - int(0.4 * total)
    assert not torch.equal(masks[0], masks[5])
    assert "val_submodel" not in records[0]["sites"]["site-0"]
    assert {"accuracy", "auroc"} <= records[1]["sites"]["site-0"]["val_submodel"].keys()
    entry, dense = records[0]["sites"]["site-0"], records[0]["sites"]["site-2"]
    assert entry["bytes_up"] == dense["bytes_up"] - 4 * (total - int(0.1 * total))
    assert entry["bytes_down"] == entry["bytes_up"] + math.ceil(total / 8)


@pytest.mark.parametrize(
    ("importance", "second"), [("change", [False, True, False]), ("magnitude", [True, False, False])]
)
def test_importance_by_hand(importance, second):
    # int(.34 * 3) = 1 weight for near, floor 0. By |W| = (2, 2.1, .1) it is the second. near ends there at .64 * 2.1,
    # far at (1 + .81, .25 * 2.1, ...), so W = (1.81, (2 * 1.344 + 6 * .525) / 8 = .73, ...): |W| now favours the first,
    # and |dW * W| = (.19 * 1.81, 1.37 * .73, ...) = (.34, 1.0, ...) still the second.
    chain = SYNC | {"floor": 0.0, "restoration": "none", "importance": importance}
    p = cut([chain], densities={"near": 0.34}, start=(2.0, 2.1, 0.1), evaluate_every=1)
    p.rounds(1)
    assert p.state.tensors["fedgmr.sent.near"].tolist() == [False, True, False]
    p.rounds(1)
    assert p.state.tensors["fedgmr.sent.near"].tolist() == second


def test_restoration_reads_validation_of_the_training_sites():
    p = cut([SYNC | {"patience": 1}], densities={"near": 0.4, "far": 0.8})
    link, server = p.federation.chain.methods[0], p.federation.server(1.0)
    link.send(server, "near")

    def evaluated(near, far, own):
        sites = {"near": {"val": {"n": 1, "accuracy": near}}, "far": {"val": {"n": 3, "accuracy": far}}}
        sites["near"]["val_submodel"] = {"accuracy": own}
        sites["near"]["test"] = sites["far"]["test"] = {"n": 9, "accuracy": 0.9}
        link.on_validation(server, sites)
        return server.json_state["fedgmr"]["trigger"]

    facts = evaluated(0.4, 0.8, 0.5)  # sites in the order far, near
    assert facts["best"] == pytest.approx([0.7, -1.0, 0.5])
    assert facts["density"] == [0.8, 0.4]
    assert evaluated(0.5, 0.8, 0.5)["density"] == [1.0, 0.8]
    assert server.json_state["fedgmr"]["cut"] is None


def test_restoration_by_time_and_none():
    timed = cut([SYNC | {"restoration": "time"}], densities={"near": 0.05, "far": 0.3}, rounds=10, evaluate_every=1)
    timed.rounds(10)
    told = timed.state.json_state["fedgmr"]["trigger"]
    assert told["density"] == [1.0, 1.0]
    fixed = cut([SYNC | {"restoration": "none", "patience": 1}], densities={"near": 0.05}, rounds=10, evaluate_every=1)
    fixed.rounds(10)
    assert fixed.state.json_state["fedgmr"]["trigger"]["density"] == [1.0, 0.05]


def test_a_plateau_restores_the_whole_model():
    # The hand-made network scores nothing, so accuracy is flat: with patience 1 near climbs .4, .8, 1.
    p = cut([SYNC | {"patience": 1}], densities={"near": 0.4, "far": 0.8}, rounds=12, evaluate_every=1)
    p.rounds(12)
    assert p.state.json_state["fedgmr"]["trigger"]["density"] == [1.0, 1.0]
    assert "fedgmr.sent.near" not in p.state.tensors
    assert p.records[-1]["sites"]["near"]["bytes_down"] == 12


def test_sites_per_round_works_and_is_seeded():
    drawn = []
    for _ in range(2):
        p = cut([SYNC], densities={"near": 0.4}, sites_per_round=1, rounds=6)
        after = p.rounds(6)
        drawn.append(([r["participants"] for r in p.records], after))
    assert drawn[0] == drawn[1]
    assert {tuple(d) for d in drawn[0][0]} == {("near",), ("far",)}
    assert set(p.state.json_state["fedgmr"]["held"]) == {"near", "far"}


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"patience": 0}, "patience"),
        ({"patience": 2.5}, "whole number"),
        ({"exponent": -1}, "exponent"),
        ({"floor": 1.5}, "floor"),
        ({"restoration": "never"}, "plateau, time, none"),
        ({"aggregation": "mean"}, "mask_aware, all_sites, zero_filled"),
        ({"schedule": "asynchronous"}, "async, sync"),
        ({"importance": "gradient"}, "change, magnitude"),
        ({"window": -1}, "window"),
    ],
)
def test_refusals(stated, said):
    with pytest.raises(MedflError, match=said):
        build_chain([{"name": "fedgmr"} | stated])


@pytest.mark.parametrize("other", ["scaffold", "fednova", "lips", "pflalign", "fedasync", "fedbuff"])
def test_chains_that_contradict_it(other):
    with pytest.raises(MedflError, match=r"is not known to hold under them|both decide"):
        build_chain(["fedgmr", other])
    assert build_chain(["fedgmr", "ecgr", "fedprox"]).async_schedule(25) == (2, 0.5)
    assert FedGMR(schedule="sync").async_schedule(25) is None
