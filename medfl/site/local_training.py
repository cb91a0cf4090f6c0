"""The local steps of one site's round: batches, gradients, the methods that act on them, and one optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medfl.data.bag_batches import BagBatches
from medfl.data.batches import Batches, epoch_order
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.context import WHOLE, SiteContext, TrainingBatch
from medfl.model.bag_network import Bags
from medfl.model.flat_model import ALL, FlatModel
from medfl.model.gradient_blocks import gradient_blocks
from medfl.model.layout import VectorBlock
from medfl.site.feature_batches import FeatureBatches
from medfl.site.patient_gradients import PatientGradients
from medfl.site.shared_model import LocalTrainingConfig, SharedModel


def take_steps(
    local: SiteContext,
    shared: SharedModel,
    training: LocalTrainingConfig,
    batches: Batches | FeatureBatches | BagBatches,
    rows: NDArray[np.int64],
    groups: NDArray[np.int64] | None = None,
) -> Tensor:
    """Take `local.steps` steps on the training patches `rows`; the network ends at e. Returns the mean loss, f32[].
    `groups` are the patients of the store's patches, whom training with differential privacy needs.

    Gradients are gathered into a flat vector only where a method asks for them. Nothing here waits for the device: the
    losses are summed there, and the host has queued the last step when this returns.
    """
    chain, model = shared.chain, shared.model
    optimizer = None if chain.acts("optimizer_step") else _optimizer(model, training, local.lr)
    scaler = torch.amp.GradScaler(model.device.type, enabled=shared.precision == "fp16")
    observes, edits, records = chain.acts("on_gradient"), chain.acts("modify_gradient"), chain.acts("after_step")
    moves = chain.acts("perturb") or chain.acts("ascend")
    forward = _Forward(local, shared, training, scaler)
    total = torch.zeros((), device=model.device)
    model.train_mode()
    for parameter in model.parameters:
        parameter.grad = None  # a step that was cut short may have left some
    private = _private(local, training, rows, groups)
    blocks = model.blocks if chain.elementwise else [ALL]
    order = epoch_order(rows, training.batch_size, local.steps, local.seed)
    for images, labels in private.batches(batches.training) if private else batches.training(order, local.seed):
        if private:
            loss = private.backward(images, labels, forward.backward)
        elif moves:
            loss = _at_other_points(local, shared, forward, images, labels)
        else:
            loss = forward.backward(images, labels)
        last = local.step + 1 == local.steps and chain.acts("on_last_gradient")
        if observes or edits or last or optimizer is None:
            _act_on_gradient(local, chain, [ALL] if last else blocks, last, bind=edits and optimizer is not None)
        if optimizer is not None:
            if training.clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters, training.clip)
            scaler.step(optimizer)
            scaler.update()
        for parameter in model.parameters:
            parameter.grad = None
        local.step += 1
        if records:
            chain.call("after_step", local)
        total += loss.detach()
    return total / local.steps


def _act_on_gradient(
    local: SiteContext, chain: MethodChain, blocks: Sequence[VectorBlock], last: bool, bind: bool
) -> None:
    """Let the methods act on the gradient, block by block where they allow it, so that each block is still in a CPU's
    cache when the next method comes to it; with `bind` the optimiser is given what they leave."""
    for block, gradient in gradient_blocks(local.model, blocks, local.vector("gradient"), bind):
        local.columns, local.gradient = block.columns, gradient
        chain.call("on_gradient", local)
        if last:
            chain.call("on_last_gradient", local)
        chain.call("modify_gradient", local)
        chain.call("optimizer_step", local)
    local.columns, local.gradient = WHOLE, None


def _private(
    local: SiteContext, training: LocalTrainingConfig, rows: NDArray[np.int64], groups: NDArray[np.int64] | None
) -> PatientGradients | None:
    if training.patients is None:
        return None
    assert groups is not None
    return PatientGradients(local, training.patients, rows, groups[rows], training.eval_batch_size)


class _Forward:
    """The loss of a batch and its gradient, through the phases that methods act in; plain where none does."""

    def __init__(
        self,
        local: SiteContext,
        shared: SharedModel,
        training: LocalTrainingConfig,
        scaler: torch.amp.GradScaler,
    ) -> None:
        model, chain = shared.model, shared.chain
        self.criterion = training.loss or cross_entropy(training, local.labels, len(model.spec.classes), model.device)
        self.local, self.shared, self.scaler = local, shared, scaler
        self.transforms, self.logit_edits, self.loss_edits = (
            chain.acting(phase) for phase in ("transform_batch", "modify_logits", "modify_loss")
        )

    def backward(self, images: Tensor | Bags, labels: Tensor, factor: float = 1.0) -> Tensor:
        """The loss f32[] of a batch; its gradient, times the factor, is in the parameters."""
        with self.shared.autocast():
            if self.transforms or self.logit_edits or self.loss_edits:
                loss = self._edited(images, labels)
            else:
                loss = self.criterion(self.shared.logits(images).float(), labels)
        self.scaler.scale(loss if factor == 1.0 else loss * factor).backward()  # type: ignore[no-untyped-call]
        return loss

    def _edited(self, images: Tensor | Bags, labels: Tensor) -> Tensor:
        local, model, features = self.local, self.shared.model, None
        for method in self.transforms:
            assert isinstance(images, Tensor)  # `MethodChain.check` refuses such a method where there are bags
            images = method.transform_batch(local, images)
        if self.shared.chain.needs_features:
            features = model.features(images)
            logits = model.head(features)
        else:
            logits = self.shared.logits(images)
        for method in self.logit_edits:
            logits = method.modify_logits(local, logits, labels)
        loss: Tensor = self.criterion(logits.float(), labels)
        batch = TrainingBatch(images, labels, logits, features)
        for method in self.loss_edits:
            loss = method.modify_loss(local, batch, loss)
        return loss


def _at_other_points(
    local: SiteContext, shared: SharedModel, forward: _Forward, images: Tensor | Bags, labels: Tensor
) -> Tensor:
    """The loss at the point of this step, or where `perturb` moves it; the gradient is that of where `ascend` moves on
    to. The point and the statistics of the first pass are put back."""
    chain, model = shared.chain, shared.model
    with model.at(local.vector("other_point").copy_(model.vector)):
        chain.call("perturb", local)
        loss = forward.backward(images, labels)
        if chain.acts("ascend"):
            buffers = model.buffer_vector.clone()
            local.gradient = model.gather_gradient(local.vector("gradient"))
            chain.call("ascend", local)
            for parameter in model.parameters:
                parameter.grad = None
            forward.backward(images, labels)
            model.buffer_vector.copy_(buffers)
    return loss


def _optimizer(model: FlatModel, training: LocalTrainingConfig, lr: float) -> torch.optim.Optimizer:
    """A fresh optimiser: its state starts at zero every round. Fused, one call steps all parameters of a rate."""
    parameters: list[Any] = model.parameters
    if training.layer_decay is not None:
        by_scale: dict[float, list[nn.Parameter]] = {}
        for parameter, scale in zip(parameters, layer_scales(model, training.layer_decay), strict=True):
            by_scale.setdefault(scale, []).append(parameter)
        parameters = [{"params": group, "lr": lr * scale} for scale, group in by_scale.items()]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=training.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=lr, momentum=training.momentum, weight_decay=training.weight_decay, fused=True
    )


def layer_scales(model: FlatModel, decay: float) -> list[float]:
    """Factors on the rate, one a parameter, as timm groups layers: 1 at the classifier, times `decay` a layer."""
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(model.net, weight_decay_exclude_1d=False, layer_decay=decay)
    scales = {id(p): float(group["lr_scale"]) for group in groups for p in group["params"]}
    return [scales[id(parameter)] for parameter in model.parameters]


def cross_entropy(
    training: LocalTrainingConfig, labels: NDArray[np.int64], classes: int, device: torch.device
) -> nn.CrossEntropyLoss:
    """Cross entropy as the pipeline states it: classes weighed by the site's counts, as stated, or not at all."""
    weights = class_weights(labels, classes) if training.weighted_loss else None
    if training.class_weights is not None:
        weights = torch.tensor(training.class_weights, dtype=torch.float32)
    return nn.CrossEntropyLoss(weights, label_smoothing=training.label_smoothing).to(device)


def class_weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    """Inverse class frequency f32[classes], with mean 1 over the patches; absent classes weigh 0."""
    counts = np.bincount(labels, minlength=classes)
    weights = np.where(counts > 0, len(labels) / (max(1, (counts > 0).sum()) * np.maximum(counts, 1)), 0.0)
    return torch.tensor(weights, dtype=torch.float32)
