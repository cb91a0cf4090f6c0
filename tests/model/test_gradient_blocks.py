"""A gradient in blocks: each value once, where it lies if nothing else lies there."""

import pytest
import torch
from torch import nn

from medfl.model.backbone import InputSpec, ModelSpec
from medfl.model.flat_model import ALL, FlatModel
from medfl.model.gradient_blocks import gradient_blocks, storage_address


class TwoSummands(nn.Module):
    """`a` and `b` have one gradient, which autograd puts in one place and gives to both."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(20, 12)), nn.Parameter(torch.ones(20, 12))
        self.unused = nn.Parameter(torch.ones(40))
        self.alone = nn.Linear(20, 30)

    def forward(self, images):
        return self.alone(images.flatten(1) @ (self.a.t() + self.b.t()))


def model():
    torch.manual_seed(0)
    spec = ModelSpec("program:sums", ("a", "b"), network=TwoSummands(), input=InputSpec((0.5,) * 3, (0.5,) * 3))
    made = FlatModel(spec, torch.device("cpu"), seed=0)
    images = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    made.net(images).square().sum().backward()
    return made


@pytest.mark.parametrize("size", [100, 300, 10**6])
@pytest.mark.parametrize("bind", [True, False])
def test_what_is_written_to_a_gradient_is_written_once(size, bind):
    made, expected = model(), model()
    grads = {name: parameter.grad for name, parameter in made.net.named_parameters()}
    assert storage_address(grads["a"]) == storage_address(grads["b"])
    assert grads["unused"] is None
    whole = expected.gather_gradient(torch.zeros_like(made.vector))
    seen, out = torch.zeros_like(made.vector), torch.zeros_like(made.vector)
    for block, gradient in gradient_blocks(made, made.layout.blocks(size), out, bind):
        seen[block.columns] = gradient.add_(1.0)
    for slot, parameter in zip(made.layout.slots, made.parameters, strict=True):
        assert torch.equal(slot.view(seen), slot.view(whole) + 1)
        if bind:
            assert torch.equal(parameter.grad, slot.view(whole) + 1)
    if not bind:
        assert made.net.unused.grad is None


def test_the_gradient_of_a_large_tensor_is_not_copied():
    made = model()
    out = torch.zeros_like(made.vector)
    blocks = gradient_blocks(made, made.layout.blocks(1000), out, True)
    (block,) = (block for block, gradient in blocks if storage_address(gradient) != storage_address(out))
    assert made.layout.slots[block.members][0].name == "alone.weight"
    (whole,) = (gradient for _, gradient in gradient_blocks(made, [ALL], out, True))
    assert len(whole) == made.layout.padded
