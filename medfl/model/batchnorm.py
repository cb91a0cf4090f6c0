"""BatchNorm statistics of other images: for as long as a network is to look at them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def batchnorm_statistics_of(
    layers: Sequence[_BatchNorm], batches: Iterable[Tensor], network: Callable[[Tensor], object]
) -> Iterator[None]:
    """A network in evaluation mode whose BatchNorm layers normalise by the mean and variance of these images (Schneider
    et al., "Improving robustness against common corruptions by covariate shift adaptation", 2020, with N = 0: nothing
    is left of the statistics of training); afterwards its own again, bit for bit.

    A layer sees what the layers before it give under the new statistics. Of several batches, each normalised by itself,
    it has the mean of their means and variances, so one large batch is best. Without layers nothing is done.

    Args:
        layers: those of the network that are given new statistics; nothing else of it is touched.
        batches: images, two or more in each.
        network: what the images go through.
    """
    kept = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in layers]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # every batch counts the same
            layer.train()
        with torch.no_grad():
            for images in batches if layers else ():
                network(images)
        for layer in layers:
            layer.eval()
        yield
    finally:
        for layer, buffers, momentum in zip(layers, kept, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
            for name, buffer in layer.named_buffers():
                buffer.copy_(buffers[name])
