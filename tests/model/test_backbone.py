"""Networks by name: what timm has, and weights to start from."""

import dataclasses

import pytest
import timm
import torch

from medfl.errors import MedflError
from medfl.model.backbone import ModelSpec, check_name, create


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18.a1_in2k", ["has resnet18", '"resnet18.a1_in1k"']),
        ("test_resnet.other", ["has test_resnet", "test_resnet.r160_in1k"]),
        ("resnet81", ['"resnet18"']),
        ("hf-hub:timm/resnet18.a1_in1k", ["write resnet18.a1_in1k", "`model.weights: hf-hub:timm/resnet18.a1_in1k`"]),
        ("hf-hub:somebody/pathology", ["timm's architecture", "`model.weights: hf-hub:somebody/pathology`"]),
        ("local-dir:/tmp/net", ["timm's own names", "`model.weights: local-dir:/tmp/net`"]),
        ("", ["has no ''"]),
    ],
)
def test_a_name_that_timm_does_not_have(name, said):
    with pytest.raises(MedflError) as caught:
        create(ModelSpec(name, ("a", "b")), 0)
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_names_and_tags_that_timm_has():
    for name in ("resnet18", "resnet18.a1_in1k", "test_resnet", "botnet50ts_256"):
        check_name(name)
    check_name("resnet18", pretrained=True)
    with pytest.raises(MedflError, match=r"`model\.weights: pretrained`: .*no pretrained weights of botnet50ts_256"):
        create(ModelSpec("botnet50ts_256", ("a", "b"), weights="pretrained"), 0)


def test_arguments_of_any_kind_are_a_sentence():
    with pytest.raises(MedflError, match="cannot build test_resnet with args"):
        create(ModelSpec("test_resnet", ("a", "b"), args={"features_only": True, "out_indices": [99]}), 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path, value):
    net = timm.create_model("test_resnet", num_classes=2)
    state = net.state_dict()
    state["bn1.running_var"][1] = value
    torch.save(state, tmp_path / "start.pth")
    with pytest.raises(MedflError, match=r"start\.pth have values that are not finite .*bn1\.running_var"):
        create(ModelSpec("test_resnet", ("a", "b"), weights=str(tmp_path / "start.pth"), input="timm"), 0)


@pytest.mark.parametrize("hidden", [None, 8])
def test_a_classifier_that_starts_at_zero(hidden, tmp_path):
    start = create(ModelSpec("test_resnet", ("a", "b"), hidden=hidden, zero_classifier=True), 0).net
    plain = create(ModelSpec("test_resnet", ("a", "b"), hidden=hidden), 0).net
    images = torch.rand(2, 3, 32, 32)
    assert not start.eval()(images).any()
    assert plain.eval()(images).all()
    moved = [name for name, value in start.state_dict().items() if not torch.equal(value, plain.state_dict()[name])]
    assert all(name.startswith("fc.") for name in moved)
    # a classifier that the weights bring stays
    torch.save(plain.state_dict(), tmp_path / "start.pth")
    spec = ModelSpec("test_resnet", ("a", "b"), {}, str(tmp_path / "start.pth"), None, "timm", hidden=hidden)
    warm = create(dataclasses.replace(spec, zero_classifier=True), 0).net
    assert torch.equal(warm.eval()(images), plain(images))
