"""The flat parameter vector: views, layouts, wire order, checkpoints."""

import pytest
import timm
import torch

from medfl.errors import MedflError
from medfl.model.backbone import ModelSpec, create
from medfl.model.flat_model import FlatModel
from tests.hand import three_weights

CPU = torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["contiguous", "channels_last"])
def model(request):
    return FlatModel(ModelSpec("test_resnet", ("a", "b", "c"), channels_last=request.param), CPU, seed=1)


def test_parameters_are_views_padded_to_cache_lines(model):
    assert all(slot.offset % 16 == 0 for slot in model.layout.slots)
    model.vector.fill_(2.0)
    assert all((p == 2.0).all() for p in model.parameters)
    model.check()
    model.net.to(torch.float64).to(torch.float32)
    with pytest.raises(RuntimeError, match="detached"):
        model.check()


def test_wire_order_is_that_of_the_plain_module(model):
    plain = timm.create_model("test_resnet", num_classes=3)
    torch.manual_seed(1)
    plain = timm.create_model("test_resnet", num_classes=3)
    expected = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
    assert torch.equal(model.weights(), expected)
    assert model.layout.size == expected.numel()


def test_forward_equals_the_plain_module(model):
    torch.manual_seed(1)
    plain = timm.create_model("test_resnet", num_classes=3).eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.net.eval()(images), plain(images), rtol=1e-4, atol=1e-5)


def test_training_keeps_the_padding_zero(model):
    optimizer = torch.optim.SGD(model.parameters, lr=0.1, momentum=0.9, weight_decay=0.01, fused=True)
    model.net(torch.rand(4, 3, 32, 32)).square().sum().backward()
    before = model.vector.clone()
    optimizer.step()
    used = torch.zeros(model.layout.padded, dtype=torch.bool)
    for slot in model.layout.slots:
        used[slot.offset : slot.offset + slot.numel] = True
    assert (model.vector[~used] == 0).all()
    assert (~used).any()
    assert not torch.equal(model.vector, before)


def test_pack_and_unpack_are_inverse(model):
    wire = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.layout.pack(model.layout.unpack(wire, model.vector)), wire)
    with pytest.raises(ValueError, match="does not fit"):
        model.layout.unpack(wire[:-1], model.vector)


def test_load_gradient_and_buffers(model):
    weights, buffers = model.weights(), model.buffers()
    model.load(weights + 1, buffers + 2)
    assert torch.equal(model.weights(), weights + 1)
    assert torch.equal(model.buffers(), buffers + 2)
    assert (model.net.state_dict()["bn1.running_mean"] == 2).all()
    (3.0 * model.net.fc.bias).sum().backward()
    flat = model.gather_gradient(torch.zeros_like(model.vector))
    assert flat.sum() == 9.0
    model.scatter_gradient(flat * 2)
    assert (model.net.fc.bias.grad == 6.0).all()


def test_at_another_point_the_network_is_that_ones_and_its_own_is_left_alone(model):
    home, before = model.vector, model.weights()
    point = home + 1

    def interrupted():
        with model.at(point):
            assert model.vector is point
            assert torch.equal(model.net.fc.weight, model.layout.slots[-2].view(point))
            point.add_(1)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert model.vector is home
    assert torch.equal(model.weights(), before)
    model.check()


def test_integer_buffers_are_not_in_the_vector(model):
    names = {slot.name for slot in model.buffer_layout.slots}
    assert "bn1.running_var" in names
    assert not any("num_batches" in name for name in names)


def test_state_dict_round_trip(model):
    weights, buffers = torch.randn(model.layout.size), torch.rand(model.buffer_layout.size)
    state = model.state_dict(weights, buffers)
    back = model.from_state_dict(state)
    assert torch.equal(back[0], weights)
    assert torch.equal(back[1], buffers)
    del state["fc.weight"]
    with pytest.raises(MedflError, match=r"fc\.weight is absent"):
        model.from_state_dict(state)


def test_fingerprint_depends_on_architecture_and_classes_only():
    def of(backbone, classes, seed):
        return FlatModel(ModelSpec(backbone, classes), CPU, seed).fingerprint()

    first = of("test_resnet", ("a", "b"), 0)
    assert of("test_resnet", ("a", "b"), 5) == first
    assert of("test_resnet", ("b", "a"), 0) != first
    assert of("test_byobnet", ("a", "b"), 0) != first


def test_stages_cover_every_parameter_once(model):
    stages = model.layout.stages()
    assert sum(len(slots) for slots in stages.values()) == len(model.layout.slots)
    assert {"conv1", "layer1", "layer4", "fc"} <= set(stages)


def test_tied_parameters_count_once():
    model = FlatModel(ModelSpec("test_resnet", ("a", "b")), CPU)
    names = [slot.name for slot in model.layout.slots]
    assert len(names) == len(set(names))


def test_seed_decides_initial_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = FlatModel(ModelSpec("test_resnet", ("a", "b")), CPU, seed=1).weights()
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, FlatModel(ModelSpec("test_resnet", ("a", "b")), CPU, seed=1).weights())
    assert not torch.equal(first, FlatModel(ModelSpec("test_resnet", ("a", "b")), CPU, seed=2).weights())


def test_bad_args_are_named():
    with pytest.raises(MedflError, match="args"):
        create(ModelSpec("test_resnet", ("a", "b"), args={"nonsense": 1}), 0)


# ----------------------------------------------------------------------------------------- features apart from the head

WITH_FEATURES = ["test_byobnet", "test_resnet", "test_vit", "test_convnext", "test_efficientnet"]


@pytest.mark.parametrize("backbone", WITH_FEATURES)
def test_the_head_of_the_features_is_the_network(backbone):
    size = {"img_size": 32} if "vit" in backbone else {}
    model = FlatModel(ModelSpec(backbone, ("a", "b", "c"), size), CPU)
    images = torch.randn(4, 3, 32, 32)
    assert model.gives_features
    for training in (False, True):
        model.net.train(training)
        features = model.features(images)
        assert features.shape[0] == 4
        assert features.dim() == 2
        assert torch.equal(model.head(features), model.net(images))


@pytest.mark.parametrize("channels_last", [False, True])
def test_features_under_other_weights_leave_the_network_and_its_statistics(channels_last):
    other = FlatModel(ModelSpec("test_resnet", ("a", "b"), channels_last=channels_last), CPU, seed=2)
    model = FlatModel(ModelSpec("test_resnet", ("a", "b"), channels_last=channels_last), CPU, seed=1)
    other.buffer_vector.mul_(1.5)
    images = torch.randn(4, 3, 32, 32)
    model.net.train()
    loss = model.head(model.features(images)).square().mean()  # a graph whose backward pass is still to come
    weights, buffers = model.weights(), model.buffers()
    features = model.features_at(other.vector, other.buffer_vector, images)
    other.net.eval()
    torch.testing.assert_close(features, other.features(images).detach())
    assert not features.requires_grad
    assert model.net.training
    assert torch.equal(model.weights(), weights)
    assert torch.equal(model.buffers(), buffers)
    model.check()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters)


def test_a_network_with_two_classifiers_or_none_gives_no_features():
    model = FlatModel(ModelSpec("test_resnet", ("a", "b")), CPU)
    model.net.get_classifier = lambda: (model.net.fc, model.net.fc)
    assert not model.gives_features
    assert not FlatModel(ModelSpec(three_weights.__name__, ("a", "b")), CPU).gives_features
