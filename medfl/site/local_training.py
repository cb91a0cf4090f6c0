"""The local steps of one site's round: batches, gradients, the methods that act on them, and one optimiser."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medfl.data.batches import Batches, epoch_order
from medfl.methods.core.context import SiteContext
from medfl.site.shared_model import LocalTrainingConfig, SharedModel


def take_steps(
    local: SiteContext, bench: SharedModel, work: LocalTrainingConfig, batches: Batches, rows: NDArray[np.int64]
) -> Tensor:
    """Take `local.steps` steps on the training patches `rows`; the network ends at e. Returns the mean loss, f32[].

    Gradients are gathered into a flat vector only where a method asks for them. Nothing here waits for the device: the
    losses are summed there, and the host has queued the last step when this returns.
    """
    chain, model = bench.chain, bench.model
    optimizer = None if chain.acts("optimizer_step") else _optimizer(model.parameters, work, local.lr)
    weights = class_weights(batches.store.labels[rows], len(model.spec.classes)) if work.weighted_loss else None
    criterion = nn.CrossEntropyLoss(weights).to(model.device)
    observes, edits, records = chain.acts("on_gradient"), chain.acts("modify_gradient"), chain.acts("after_step")
    total = torch.zeros((), device=model.device)
    bench.net.train()
    for parameter in model.parameters:
        parameter.grad = None  # a step that was cut short may have left some
    order = epoch_order(rows, work.batch_size, local.steps, local.seed)
    for images, labels in batches.training(order, local.seed):
        with bench.autocast():
            loss = criterion(bench.net(images), labels)
        loss.backward()
        last = local.step + 1 == local.steps and chain.acts("on_last_gradient")
        if observes or edits or last or optimizer is None:
            local.gradient = model.gather_gradient(local.vector("gradient"))
            chain.call("on_gradient", local)
            if last:
                chain.call("on_last_gradient", local)
            chain.call("modify_gradient", local)
            chain.call("optimizer_step", local)
            if edits and optimizer is not None:
                model.scatter_gradient(local.gradient)
        if optimizer is not None:
            optimizer.step()
        for parameter in model.parameters:
            parameter.grad = None
        local.step += 1
        if records:
            chain.call("after_step", local)
        total += loss.detach()
    return total / local.steps


def _optimizer(parameters: list[nn.Parameter], work: LocalTrainingConfig, lr: float) -> torch.optim.Optimizer:
    """A fresh optimiser: its state starts at zero every round. Fused, one call steps all parameters."""
    if work.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=work.weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=lr, momentum=work.momentum, weight_decay=work.weight_decay, fused=True)


def class_weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    """Inverse class frequency f32[classes], with mean 1 over the patches; absent classes weigh 0."""
    counts = np.bincount(labels, minlength=classes)
    weights = np.where(counts > 0, len(labels) / (max(1, (counts > 0).sum()) * np.maximum(counts, 1)), 0.0)
    return torch.tensor(weights, dtype=torch.float32)
