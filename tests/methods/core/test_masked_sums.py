"""Masks cancel to the last bit, whoever drops out; fixed point sums as floats do; what needs more is named."""

import numpy as np
import pytest
import torch

from medfl.methods.core.chain import build_chain
from medfl.methods.core.masked_sums import (
    LARGEST,
    MaskKey,
    from_fixed,
    least_survivors,
    mask,
    new_seed,
    to_fixed,
    unmask,
    why_not_summed,
)
from medfl.methods.core.registry import built_in_methods

NAMES = ("a", "b", "c", "d")


def test_both_of_a_pair_have_one_seed_that_is_of_this_sum_only():
    one, two, other = MaskKey(), MaskKey(), MaskKey()
    assert one.seed(two.public, "t") == two.seed(one.public, "t")
    assert len({one.seed(two.public, "t"), one.seed(two.public, "u"), one.seed(other.public, "t")}) == 3
    with pytest.raises(ValueError, match="32 bytes"):
        one.seed(b"short", "t")


@pytest.mark.parametrize("dropped", ["", "c", "ad"])
def test_masks_cancel_to_the_last_bit(dropped):
    keys = {name: MaskKey() for name in NAMES}
    own = {name: new_seed() for name in NAMES}
    plain, masked, revealed = np.zeros(1500, np.int64), np.zeros(1500, np.int64), {}
    for number, name in enumerate(NAMES):
        words = np.random.default_rng(number).integers(-(2**63), 2**63 - 1, 1500)
        pairs = {other: keys[name].seed(keys[other].public, "7") for other in NAMES if other != name}
        if name in dropped:
            continue
        plain += words
        mask(words, name, own[name], pairs)
        masked += words
        revealed |= {(name, other): pairs[other] for other in dropped}
    assert not np.array_equal(masked, plain)
    unmask(masked, [own[name] for name in NAMES if name not in dropped], revealed)
    assert np.array_equal(masked, plain)


def test_fixed_point_is_within_its_last_bit():
    values = torch.tensor([0.0, 1e-9, -3.3e-7, 0.1, -12345.678])
    back = from_fixed(to_fixed([(values, 700), (torch.ones(1), 0.5)], 4))
    exact = np.append(values.numpy().astype(np.float64) * 700, 0.5)
    assert np.abs(back - exact).max() <= 2.0**-33 + 1e-9  # of the largest 53 bits are left


def test_a_value_that_the_sum_could_not_hold_is_refused():
    good = torch.tensor([LARGEST / 8 * 0.99])
    assert from_fixed(to_fixed([(good, 2)], 4) * 4)[0] == pytest.approx(float(good) * 8)
    for bad in (LARGEST / 8, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="too large for a masked sum of 4 sites"):
            to_fixed([(torch.tensor([bad]), 2)], 4)


def test_the_least_of_the_survivors_is_more_than_half():
    assert [least_survivors(n) for n in (3, 4, 5, 6)] == [2, 3, 3, 4]


def test_a_method_that_needs_single_updates_is_named():
    """The rest need the weighted sum and no more."""
    why = {name: why_not_summed(build_chain([name]).methods) for name in built_in_methods()}
    summed = {name for name, reason in why.items() if reason is None}
    assert {
        "dp",
        "ecgr",
        "fedprox",
        "fedavgm",
        "fedadam",
        "fedsam",
        "moon",
        "finetune",
        "logit_adjustment",
        "feddyn",
    } <= summed
    single = {"krum", "median", "trimmed_mean", "norm_clip", "norm_guard", "scaffold", "fednova", "fedbn"}
    assert single | {"fedasync", "fedbuff", "fedgmr", "fedrdn"} <= why.keys() - summed
    assert why["median"] == "median keeps the updates of a round side by side"
    assert why["scaffold"].startswith("scaffold sends ")
    assert why["norm_guard"] == "norm_guard looks at each update before it is taken"
