"""Adapters: a federation's mean is exact, few values travel, and what is saved is a plain network."""

import pytest
import timm
import torch
from torch import nn

from medfl.errors import MedflError
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.model.lora import Lora, LoraLinear, add_lora, merged

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")
SMALL = {"img_size": 8, "patch_size": 4, "depth": 2, "embed_dim": 32}


TWO = Lora(rank=2)


def adapted(lora=TWO, seed=1, backbone="test_vit", **stated):
    args = SMALL if backbone == "test_vit" else {}
    return FlatModel(ModelSpec(backbone, CLASSES, args, train=lora, **stated), CPU, seed)


def plain(seed=1):
    return FlatModel(ModelSpec("test_vit", CLASSES, SMALL), CPU, seed)


def drawn(model, seed):
    return torch.randn(model.layout.size, generator=torch.Generator().manual_seed(seed))


def test_the_mean_of_updates_is_the_update_of_the_mean():
    """What a server averages are the sites' B. The networks that they make are averaged with them, exactly."""
    model = adapted()
    sites, shares = [drawn(model, seed) for seed in (1, 2, 3)], (0.5, 0.3, 0.2)
    states = [model.state_dict(site, model.buffers()) for site in sites]
    mean = sum(share * site for share, site in zip(shares, sites, strict=True))
    aggregated = model.state_dict(mean, model.buffers())
    for name in aggregated:
        expected = sum(share * state[name] for share, state in zip(shares, states, strict=True))
        torch.testing.assert_close(aggregated[name], expected, rtol=0, atol=1e-5)


def test_averaging_both_factors_is_not_the_average_of_the_products():
    one, other = ({"x.lora_a": torch.randn(2, 6), "x.lora_b": torch.randn(4, 2)} for _ in range(2))
    weight = torch.zeros(4, 6)
    factors = {name: (one[name] + other[name]) / 2 for name in one}
    both = merged({"x.weight": weight, **factors})["x.weight"]
    products = sum(merged({"x.weight": weight, **site})["x.weight"] for site in (one, other)) / 2
    assert (both - products).abs().max() > 0.1
    other["x.lora_a"] = one["x.lora_a"]  # one factor the same everywhere
    factors = {name: (one[name] + other[name]) / 2 for name in one}
    both = merged({"x.weight": weight, **factors})["x.weight"]
    products = sum(merged({"x.weight": weight, **site})["x.weight"] for site in (one, other)) / 2
    torch.testing.assert_close(both, products)


def test_what_trains_is_one_factor_and_the_head():
    model = adapted()
    names = [slot.name for slot in model.layout.slots]
    layers = [f"blocks.{block}.attn.{layer}.lora_b" for block in (0, 1) for layer in ("qkv", "proj")]
    assert names == [*layers, "head.weight", "head.bias"]
    assert model.layout.size == 2 * (96 + 32) * 2 + 32 * 3 + 3  # blocks x outputs x rank, and the head
    assert model.buffer_layout.size == 0
    assert not any(module.training for module in model.net.modules() if module is not model.net.head)
    images = torch.randn(2, 3, 8, 8)
    model.net.eval()
    torch.testing.assert_close(model.net(images), plain().net.eval()(images))  # B starts at zero
    more = adapted(Lora(rank=2, targets=("blocks.1.mlp.*",)))
    assert [slot.name for slot in more.layout.slots][:2] == [f"blocks.1.mlp.fc{layer}.lora_b" for layer in (1, 2)]


def test_a_vit_l_sends_three_megabytes():
    with torch.device("meta"):
        net = timm.create_model("vit_large_patch16_224", num_classes=5, depth=1)
    block = sum(factor.numel() for factor in add_lora(net, Lora(rank=8), "vit_large_patch16_224", 0))
    values = 24 * block + sum(p.numel() for p in net.head.parameters())
    assert values == 24 * 8 * (3 * 1024 + 1024) + 5 * 1025 == 791_557
    assert 4 * values < 10e6


def test_what_is_saved_is_a_plain_network_with_timms_names():
    model, other = adapted(), plain(seed=2)
    weights = drawn(model, 1)
    state = model.state_dict(weights, model.buffers())
    assert state.keys() == other.net.state_dict().keys()
    model.load(weights, model.buffers())
    other.load(*other.from_state_dict(state))
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model.net.eval()(images), other.net.eval()(images), rtol=0, atol=1e-4)
    assert model.saved_fingerprint() == other.fingerprint() == other.saved_fingerprint() != model.fingerprint()
    with pytest.raises(MedflError, match=r"lora_b is absent"):
        model.from_state_dict(state)


def test_the_fixed_factor_is_that_of_a_seed():
    first = adapted()
    assert adapted().fingerprint() == first.fingerprint()
    assert adapted(seed=2).fingerprint() != first.fingerprint()
    assert adapted(Lora(rank=3)).fingerprint() != first.fingerprint()
    assert adapted(Lora(rank=2, alpha=4.0)).fingerprint() != first.fingerprint()
    factors = [m.lora_a for m in first.net.modules() if isinstance(m, LoraLinear)]
    assert not torch.equal(factors[0], factors[1])
    assert all(factor.abs().max() <= 8 * 32**-0.5 for factor in factors)  # alpha / rank is in it


def test_what_cannot_be_adapted_is_said():
    with pytest.raises(
        MedflError, match=r"`model\.train\.lora\.targets`: test_vit has no .*'query'.*fc1, fc2, proj, qkv"
    ):
        adapted(Lora(targets=("query",)))
    with pytest.raises(MedflError, match=r"test_resnet has no linear layer 'qkv'.*it has none: state `train: head`"):
        adapted(backbone="test_resnet")
    with pytest.raises(MedflError, match=r"`model\.train\.lora\.rank: 32` is not below the width of blocks\.0"):
        adapted(Lora(rank=32))
    attention = nn.Sequential(nn.MultiheadAttention(4, 2))  # reads the weights of `out_proj` without calling it
    attention.get_classifier = lambda: None
    with pytest.raises(MedflError, match="has no linear layer 'out_proj'"):
        add_lora(attention, Lora(rank=1, targets=("out_proj",)), "x", 0)
