"""Pooling of tokens and heads that timm's own networks do not have."""

import pytest
import timm
import torch

from medfl.errors import MedflError
from medfl.model.backbone import ModelSpec, create
from medfl.model.flat_model import FlatModel
from medfl.model.timm_network import build_network
from tests.hub_folder import write_hub_folder

CPU = torch.device("cpu")
SMALL = {"img_size": 8, "patch_size": 4, "depth": 1, "embed_dim": 32, "reg_tokens": 2}
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_tokens_are_pooled_as_stated(tmp_path):
    """Virchow's way, by hand: the class token of the last norm's output, and the mean of its patch tokens."""
    folder = write_hub_folder(tmp_path / "hub", global_pool="", reg_tokens=2)
    tokens = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()(torch.ones(1, 3, 32, 32))
    cls, mean = tokens[:, 0], tokens[:, 3:].mean(1)
    prints = set()
    for pooling, expected in (("cls", cls), ("avg", mean), ("cls+avg", torch.cat([cls, mean], 1))):
        spec = ModelSpec(None, ("a", "b"), weights=f"local-dir:{folder}", train="head", pooling=pooling)
        model = FlatModel(spec, CPU)
        model.net.eval()
        features = model.features(torch.ones(1, 3, 32, 32))
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(model.head(features), model.net(torch.ones(1, 3, 32, 32)), rtol=0, atol=1e-6)
        prints.add(model.fingerprint())
    assert len(prints) == 3


@pytest.mark.parametrize("hidden", [None, 4])
def test_stages_are_pooled_beside_the_features(hidden):
    """By hand: the mean of each stage's map, and that of timm's own features."""
    spec = ModelSpec("test_efficientnet", ("a", "b"), train="head", pooling="stages", hidden=hidden)
    model, images = FlatModel(spec, CPU), torch.rand(2, 3, 64, 64)
    plain = timm.create_model("test_efficientnet", num_classes=2).eval()
    state = {name: value for name, value in model.net.eval().state_dict().items() if not name.startswith("classifier.")}
    plain.load_state_dict(state, strict=False)
    final, stages = plain.forward_intermediates(images)
    means = [stage.mean((2, 3)) for stage in (*stages, final)]
    features = model.features(images)
    assert features.shape == (2, 16 + 24 + 32 + 48 + 64 + 256)
    torch.testing.assert_close(features, torch.cat(means, 1))
    torch.testing.assert_close(model.head(features), model.net(images))


def test_pooling_is_part_of_the_fingerprint_and_absent_from_old_ones():
    spec = ModelSpec("test_vit", ("a", "b"), SMALL)
    plain, cls = (FlatModel(ModelSpec(**vars(spec) | {"pooling": p}), CPU) for p in (None, "cls"))
    assert torch.equal(plain.net.eval()(IMAGES), cls.net.eval()(IMAGES))
    assert plain.fingerprint() != cls.fingerprint()


@pytest.mark.parametrize(("backbone", "args"), [("test_vit", SMALL), ("test_resnet", {}), ("test_efficientnet", {})])
def test_a_head_with_a_hidden_layer(backbone, args):
    model = FlatModel(ModelSpec(backbone, ("a", "b"), args, train="head", hidden=5), CPU, 1)
    assert [slot.name.rpartition("fc")[2] for slot in model.layout.slots] == [
        "1.weight",
        "1.bias",
        "2.weight",
        "2.bias",
    ]
    model.net.eval()
    features = model.features(IMAGES)
    first, second = model.net.get_classifier().fc1, model.net.get_classifier().fc2
    assert first.in_features == features.shape[1]
    expected = torch.nn.functional.gelu(features @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(model.net(IMAGES), expected)


def test_a_gated_mlp_is_named():
    net = build_network("test_vit", 2, {**SMALL, "mlp_layer": "SwiGLUPacked", "act_layer": "silu"})
    own = timm.create_model("test_vit", **SMALL, mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU)
    assert type(net.blocks[0].mlp) is type(own.blocks[0].mlp) is timm.layers.GluMlp
    assert isinstance(net.blocks[0].mlp.act, torch.nn.SiLU)


@pytest.mark.parametrize(("key", "stated"), [("pooling", {"pooling": "cls"}), ("head", {"hidden": 3})])
def test_the_network_of_a_program_is_built_by_the_program(key, stated):
    spec = ModelSpec("program:mine", ("a", "b"), network=torch.nn.Linear(2, 2), **stated)
    with pytest.raises(MedflError, match=rf"`model\.{key}` is for timm's networks"):
        create(spec, 0)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"pooling": "cls+avg", "backbone": "test_resnet"}, "no vision transformer whose tokens could be pooled"),
        ({"pooling": "stages"}, "no convolutional network whose stages could be pooled"),
        ({"pooling": "stages", "backbone": "mobilenetv3_small_100"}, "no convolutional network whose stages"),
        ({"pooling": "cls", "args": {"class_token": False, "no_embed_class": True}}, "needs the class token"),
        ({"args": {"mlp_layer": "os.system"}}, "mlp_layer is one of Mlp, GluMlp, SwiGLU, SwiGLUPacked"),
        ({"hidden": 3, "backbone": "test_nfnet", "args": {"num_classes": 0}}, "timm cannot build test_nfnet"),
    ],
)
def test_what_a_network_does_not_have_is_said(stated, words):
    with pytest.raises(MedflError) as caught:
        create(ModelSpec(**{"backbone": "test_vit", "classes": ("a", "b"), **stated}), 0)
    assert words in str(caught.value)
