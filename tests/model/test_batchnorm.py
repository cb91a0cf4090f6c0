"""Re-estimated BatchNorm statistics are the mean and variance of what each layer is given."""

import pytest
import torch

from medfl.model.batchnorm import batchnorm_statistics_of
from tests.toys import toy_bench


@pytest.fixture
def model():
    return toy_bench(backbone="test_byobnet", seed=2).model


def statistics(layers):
    return [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]


def test_they_are_those_of_the_activations(model):
    layers, images = model.moving_batchnorm(), torch.randn(24, 3, 32, 32)
    given: dict[int, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: given.update({id(layer): args[0]})) for layer in layers
    ]
    assert len(layers) > 3
    with batchnorm_statistics_of(layers, [images], model.net):
        assert not any(module.training for module in model.net.modules() if module in layers)
        for layer in layers:
            activations = given[id(layer)].transpose(0, 1).flatten(1)
            torch.testing.assert_close(layer.running_mean, activations.mean(1), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(layer.running_var, activations.var(1), rtol=1e-4, atol=1e-6)
    for hook in hooks:
        hook.remove()


def test_of_several_batches_they_are_the_mean(model):
    first, images = model.moving_batchnorm()[0], torch.randn(24, 3, 32, 32)
    model.net.eval()
    with batchnorm_statistics_of([first], [images[:8], images[8:16], images[16:]], model.net):
        several = first.running_mean.clone()
    with batchnorm_statistics_of([first], [images], model.net):
        torch.testing.assert_close(several, first.running_mean, rtol=1e-4, atol=1e-6)


def test_the_network_is_its_own_again_bit_for_bit_whatever_happens(model):
    layers, before = model.moving_batchnorm(), {k: v.clone() for k, v in model.net.state_dict().items()}
    model.net.eval()
    first = f"{next(iter(model.all_batchnorm()))}.running_mean"

    def interrupted():
        with batchnorm_statistics_of(layers, [torch.randn(4, 3, 32, 32)], model.net):
            assert not torch.equal(layers[0].running_mean, before[first])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    after = model.net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    model.check()
    assert {layer.momentum for layer in layers} == {0.1}


def test_what_is_frozen_keeps_the_statistics_of_pretraining():
    frozen, part = (toy_bench(backbone="test_resnet", train=train).model for train in ("head", 1))
    assert frozen.all_batchnorm()
    assert not frozen.moving_batchnorm()
    assert 0 < len(part.moving_batchnorm()) < len(part.all_batchnorm())
    assert not toy_bench(backbone="test_vit").model.all_batchnorm()
