"""A network is tried once before it is trained."""

import dataclasses

import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.model.lora import Lora, LoraLinear
from medfl.site.shared_model import SharedModel
from medfl.site.trial_pass import try_network
from tests.hub_folder import write_hub_folder

CPU = torch.device("cpu")


def shared(backbone="test_resnet", method=(), channels_last=False, **args):
    spec = ModelSpec(backbone, ("a", "b", "c"), args, channels_last=channels_last)
    return SharedModel(FlatModel(spec, CPU, seed=1), build_chain(method))


@pytest.mark.parametrize("method", [(), ("moon",)])
def test_a_trial_leaves_nothing_behind(method):
    bench = shared(method=method, channels_last=True, drop_rate=0.5)
    model = bench.model
    integers = model.net.bn1.num_batches_tracked.clone()
    before = model.vector.clone(), model.buffer_vector.clone(), torch.get_rng_state(), model.net.training
    try_network(bench, 32, 8)
    after = model.vector, model.buffer_vector, torch.get_rng_state()
    assert all(torch.equal(one, two) for one, two in zip(before[:3], after, strict=True))
    assert torch.equal(model.net.bn1.num_batches_tracked, integers)
    assert model.net.training is before[3]
    assert all(parameter.grad is None for parameter in model.parameters)
    model.check()


@pytest.mark.parametrize(
    ("backbone", "args", "batch_size", "said"),
    [
        (
            "vit_tiny_patch16_224",
            {},
            8,
            ["(32) doesn't match model (224)", "`data.size` to 224", "`model.args.img_size` to 32"],
        ),
        ("test_vit", {"img_size": 32, "global_pool": ""}, 8, ["of shape [2, 5, 3]", "`model.pooling`"]),
        ("test_resnet", {"in_chans": 1}, 8, ["to have 1 channels", "remove `model.args.in_chans`"]),
        ("test_resnet", {"features_only": True}, 8, ["gives a list", "scores of 3 classes"]),
        ("test_resnet", {"global_pool": ""}, 8, ["cannot be multiplied", "change `model.args`"]),
        ("test_convnext", {"ls_init_value": float("nan")}, 8, ["not finite before any training"]),
        ("test_resnet", {}, 1, ["BatchNorm", "`training.batch_size` is 1"]),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_librarys_sentence(backbone, args, batch_size, said):
    with pytest.raises(MedflError) as caught:
        try_network(shared(backbone, **args), 32, batch_size)
    assert backbone in str(caught.value)
    assert all(words in str(caught.value) for words in said), str(caught.value)


def test_a_size_that_weights_of_a_fixed_size_do_not_take(tmp_path):
    folder = write_hub_folder(tmp_path / "hub")
    spec = ModelSpec(None, ("a", "b"), weights=f"local-dir:{folder}")
    with pytest.raises(
        MedflError, match=r"\(64\) doesn't match model \(32\).*`data\.size` to 32.*`model\.args\.dynamic"
    ):
        try_network(SharedModel(FlatModel(spec, CPU), build_chain([])), 64, 8)
    spec = dataclasses.replace(spec, args={"dynamic_img_size": True})
    try_network(SharedModel(FlatModel(spec, CPU), build_chain([])), 64, 8)


def test_an_adapted_layer_that_is_not_called_is_named(monkeypatch):
    monkeypatch.setattr(LoraLinear, "forward", torch.nn.Linear.forward)
    spec = ModelSpec("test_vit", ("a", "b"), {"img_size": 32, "depth": 1}, train=Lora(2))
    with pytest.raises(MedflError, match=r"reads the weight of blocks\.0\.attn\.qkv without calling it"):
        try_network(SharedModel(FlatModel(spec, CPU), build_chain([])), 32, 8)


def test_a_network_without_batchnorm_takes_single_patches():
    try_network(shared("test_vit", img_size=32), 32, 1)
