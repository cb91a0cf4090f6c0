"""What is frozen does not move and does not travel, whatever the method; what is saved has all of it."""

import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.methods.core.registry import built_in_methods
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.model.lora import Lora
from medfl.testing.toy_federation import toy_run

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")
SMALL = {"img_size": 8, "patch_size": 4, "depth": 1, "embed_dim": 32}
LORA = Lora(rank=2)
# Methods that have nothing to do where only the classifier trains, or adapters, and what they say.
IDLE = {
    "fedbn": "no trainable normalisation layer",
    "fedgmr": "no layer besides its classifier",
    "lips": "no trainable convolution",
    "moon": "never move",
}


def model(train, backbone="test_resnet", seed=1, **stated):
    return FlatModel(ModelSpec(backbone, CLASSES, train=train, **stated), CPU, seed)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_vector_holds_what_trains(channels_last):
    head = model("head", channels_last=channels_last)
    assert [slot.name for slot in head.layout.slots] == ["fc.weight", "fc.bias"]
    assert head.buffer_layout.size == 0
    blocks = model(1)
    assert {slot.name.split(".")[0] for slot in blocks.layout.slots} == {"layer4", "fc"}
    assert {slot.name.split(".")[0] for slot in blocks.buffer_layout.slots} == {"layer4"}
    assert blocks.net.layer4.training
    assert not blocks.net.layer3.training
    assert not blocks.net.layer3[0].bn1.training
    everything = model("all")
    assert everything.frozen() == {}
    assert everything.frozen_digest() == ""
    assert (
        head.frozen().keys() | {"fc.weight", "fc.bias"}
        == everything.state_dict(everything.weights(), everything.buffers()).keys()
    )


def test_the_last_blocks_of_other_families():
    def parts(backbone, count, **args):
        return {".".join(s.name.split(".")[:2]) for s in model(count, backbone, args=args).layout.slots}

    assert parts("test_vit", 1) == {"blocks.5", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert {"blocks.4", "conv_head.weight", "bn2.weight"} <= parts("test_efficientnet", 1)
    with pytest.raises(MedflError, match=r"`model\.train\.blocks: 9`: test_resnet has 4 blocks"):
        model(9)
    with pytest.raises(MedflError, match="what the blocks of medfl_toy are"):
        model(1, "medfl_toy")


def test_the_fingerprint_knows_the_frozen_values_and_not_the_others():
    first = model("head")
    print_ = first.fingerprint()
    assert model("head").fingerprint() == print_
    assert model("head", channels_last=True).fingerprint() == print_
    assert model("head", seed=2).fingerprint() != print_
    assert model(1).fingerprint() != print_
    first.vector.add_(1)
    first._fingerprint = ""
    assert first.fingerprint() == print_
    first.net.bn_or_norm = None
    first.net.layer1[0].bn1.running_mean[0] += 1
    first._fingerprint = ""
    assert first.fingerprint() != print_


@pytest.mark.parametrize("train", ["head", 1])
def test_what_is_saved_is_the_whole_network(train):
    trained, other = model(train), model(train, seed=2)
    state = trained.state_dict(trained.weights() + 1, trained.buffers() + 1)
    other.load_frozen(state)
    other.load(*other.from_state_dict(state))
    trained.load(trained.weights() + 1, trained.buffers() + 1)
    images = torch.randn(2, 3, 32, 32)
    for network in (trained, other):
        network.net.eval()
    assert torch.equal(trained.net(images), other.net(images))
    assert trained.fingerprint() == other.fingerprint()
    del state["conv1.0.weight"]
    with pytest.raises(MedflError, match=r"conv1\.0\.weight is absent"):
        other.load_frozen(state)


@pytest.mark.parametrize("train", ["head", LORA], ids=["head", "lora"])
@pytest.mark.parametrize("name", sorted(built_in_methods()))
def test_every_method_trains_a_head_or_adapters_or_says_why_not(name, train, tmp_path):
    chain = build_chain([{"name": name, **({"clip": 1.0, "noise": 1.0} if name == "dp" else {})}])
    networks = [ModelSpec("test_vit", CLASSES, SMALL, train=train)]
    if name in IDLE and (name, train) != ("moon", LORA):
        with pytest.raises(MedflError, match=IDLE[name]):
            toy_run(chain, networks=networks)
        return
    played = toy_run(chain, networks=networks)
    shared = next(iter(played.sites.values())).shared
    before = {key: tensor.clone() for key, tensor in shared.model.frozen().items()}
    start = played.state.weights.clone()
    played.rounds(1).save(tmp_path)
    resumed = toy_run(chain, networks=networks, resume=tmp_path)
    resumed.rounds(1)
    for run in (played, resumed):
        frozen = next(iter(run.sites.values())).shared.model.frozen()
        assert all(torch.equal(frozen[key], before[key]) for key in before)
    assert not torch.equal(played.state.weights, start)
    trained = 3 * 33 + (0 if train == "head" else 2 * (96 + 32))
    assert all(reply.update.numel() == shared.model.layout.size == trained for reply in played.transport.replies)
    assert all(reply.buffers.numel() == 0 for reply in played.transport.replies)
