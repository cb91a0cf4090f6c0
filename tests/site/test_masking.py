"""What a site does behind masks whatever a server asks: nothing that would tell more than a sum."""

import dataclasses

import pytest
import torch

from medfl.messages import KeyRequest, Reply, TrainRequest, UnmaskRequest
from medfl.site.masking import Masking, MaskRefused

NAMES = ("a", "b", "c", "d")
NOTHING = torch.zeros(0)


@pytest.fixture
def sites():
    return {name: Masking(name) for name in NAMES}


def trained(request):
    return Reply("a", request.round, samples=3, steps=1, update=torch.ones(4), buffers=torch.ones(2))


def keys(sites, **changes):
    return {name: site.announce() for name, site in sites.items()} | changes


def train(sites, tag="7", **changes):
    request = TrainRequest(0, NOTHING, NOTHING, mask_keys=keys(sites), mask_tag=tag)
    return sites["a"].answer(dataclasses.replace(request, **changes), trained, False)


def unmask(sites, survivors, tag="7"):
    request = UnmaskRequest(0, NOTHING, NOTHING, tag=tag, survivors=tuple(survivors))
    return sites["a"].answer(request, trained, False).masking


def test_an_update_leaves_masked_and_its_seeds_once(sites):
    reply = train(sites)
    assert (reply.update, reply.buffers, reply.masked.shape, reply.samples) == (None, None, (6,), 3)
    assert unmask(sites, "abd").keys() == {"own_seed", "pair_c"}
    with pytest.raises(MaskRefused, match="has revealed them"):  # not of d as well, though d is now said to be gone
        unmask(sites, "abc")


@pytest.mark.parametrize("survivors", ["ab", "bcd", "abcx"])
def test_no_seeds_for_a_sum_of_few_or_of_others(sites, survivors):
    train(sites)
    with pytest.raises(MaskRefused, match=r"takes 3 to unmask|not one that it is in"):
        unmask(sites, survivors)
    assert unmask(sites, "abc")


def test_no_update_without_masks_nor_behind_few(sites):
    for changes, says in (
        ({"mask_keys": {}}, "behind masks only"),
        ({"mask_keys": keys(sites, a={"key": "00" * 32})}, "has begun anew"),
        ({"mask_keys": {name: sites[name].announce() for name in "ab"}}, "hides too little"),
        ({"mask_keys": keys(sites, b={"key": "00"})}, "key of b is none"),
        ({"mask_tag": ""}, "not used before"),
    ):
        with pytest.raises(MaskRefused, match=says):
            train(sites, **changes)
    train(sites)
    with pytest.raises(MaskRefused, match="not used before"):  # twice the same masks would give a difference away
        train(sites)
    assert unmask(sites, "abcd", "7").keys() == {"own_seed"}


def test_a_key_of_no_order_is_refused(sites):
    with pytest.raises(MaskRefused, match=r".+"):
        train(sites, mask_keys=keys(sites, b={"key": "00" * 32}))


def test_a_key_that_no_kit_has_signed_is_refused(sites):
    class Kit:
        def sign(self, site, key):
            return {"signature": f"{ord(site):x}"}

        def check(self, site, said):
            return None if said.get("signature") == f"{ord(site):x}" else f"the key of {site} is not signed"

    sites["a"].identity = Kit()
    said = {name: site.announce() for name, site in sites.items()}
    with pytest.raises(MaskRefused, match="the key of b is not signed"):
        train(sites, mask_keys=said)
    train(sites, mask_keys={name: each | {"signature": f"{ord(name):x}"} for name, each in said.items()})
    assert sites["a"].answer(KeyRequest(0, NOTHING, NOTHING), trained, False).masking["signature"] == "61"
